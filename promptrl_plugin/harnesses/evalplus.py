"""``--strategy`` for ``evalplus.codegen`` and ``evalplus.evaluate``, on an unmodified EvalPlus.

`extend_codegen` and `extend_evaluate` are called once the modules have been imported. Without
``--strategy`` (and without ``--help``) the harness's own functions run with their own arguments.

With it, samples are written by a process of its own (`promptrl_plugin.harnesses.worker`), for two
reasons: EvalPlus judges in forks of the calling process under a 4 GiB address space limit, which a parent
that holds a model exceeds, so that right programs fail; and its released ``hf`` backend truncates outputs,
so every strategy, `direct` included, generates with promptrl's backbone.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

from promptrl_plugin.config import DEFAULT_BACKBONE, DEFAULT_SUITE
from promptrl_plugin.errors import ConfigError, UserError
from promptrl_plugin.harnesses.options import (
    STRATEGY_FLAGS,
    BackboneOptions,
    SolveOptions,
    StrategyOptions,
    unknown_flag,
)

__all__ = ["concerns_us", "extend_codegen", "extend_evaluate", "in_evalplus_words", "parse_flags"]

#: Defaults that differ from EvalPlus's once a strategy is asked for.
_DEFAULTS: Mapping[str, Any] = {"dataset": DEFAULT_SUITE, "model": DEFAULT_BACKBONE, "backend": "hf", "dtype": "auto"}

#: Flags of `run_codegen` that mean nothing to a strategy, with the only value that does no harm and the reason.
_REFUSED: Mapping[str, tuple[Any, str]] = {
    "n_samples": (1, "a strategy submits one program a task"),
    "temperature": (0.0, "a strategy chooses its own temperatures"),
    "version": ("default", "strategies run on EvalPlus's default data"),
    "evalperf_type": (None, "strategies do not run on EvalPerf"),
    "jsonl_fmt": (True, "samples are written as .jsonl"),
    "attn_implementation": ("eager", "the backbone chooses its attention"),
    "bs": (None, "the backbone fills its own batches"),
    "tp": (1, "serve the model with vLLM and use --backend openai --base_url"),
    "trust_remote_code": (False, "code from a model's repository is not run; serve it and use --backend openai"),
}


def extend_codegen(module: Any) -> None:
    """Make ``run_codegen`` take the flags of a strategy, and ``main`` show them."""
    original: Callable[..., str] = module.run_codegen
    known = inspect.signature(original)

    @functools.wraps(original)
    def run_codegen(*args: Any, strategy: str | None = None, **kwargs: Any) -> str:
        if strategy is None:
            return original(*args, **kwargs)
        ours = {k: kwargs.pop(k) for k in [*kwargs] if k in STRATEGY_FLAGS}
        _check_names(kwargs, known.parameters)
        flags = {**_DEFAULTS, **known.bind_partial(*args, **kwargs).arguments, **ours, "strategy": strategy}
        return _solve(flags)

    module.run_codegen = run_codegen
    parameters = {**known.parameters, **_strategy_parameters()}
    module.main = _main(module.main, _command(run_codegen, parameters, "Generate code samples."))


def extend_evaluate(module: Any) -> None:
    """Make the command line of ``evaluate`` take the flags of a strategy (it forwards them to `run_codegen`)."""
    original: Callable[..., None] = module.evaluate
    own = {k: p for k, p in inspect.signature(original).parameters.items() if p.kind is not Parameter.VAR_KEYWORD}
    codegen = inspect.signature(module.run_codegen).parameters

    @functools.wraps(original)
    def evaluate(**flags: Any) -> None:
        if flags.get("strategy") is None:
            original(**flags)
            return
        if flags.get("samples") is not None:
            raise ConfigError("--samples are there already, --strategy makes new ones; leave one of them out")
        if flags.get("id_range") is not None:
            raise ConfigError(
                "--id_range leaves tasks without a sample, which evalplus.evaluate refuses; use evalplus.codegen, "
                "or point MBPP_OVERRIDE_PATH or HUMANEVAL_OVERRIDE_PATH at a smaller file"
            )
        original(**{"dataset": DEFAULT_SUITE, **flags})

    parameters = {**own, **codegen, **_strategy_parameters()}
    module.main = _main(module.main, _command(evaluate, parameters, "Generate code samples and score them."))


def concerns_us(args: Sequence[str]) -> bool:
    """Whether a command line asks for a strategy, or for help (which lists the flags of a strategy)."""
    return "strategy" in _flag_names(args) or _asks_help(args)


def parse_flags(flags: Mapping[str, Any]) -> SolveOptions:
    """Check the flags of a command line.

    Args:
        flags: By name, with the types that Fire gives them; those that are missing take their defaults.

    Raises:
        ConfigError: A value that cannot work, or a flag of EvalPlus that a strategy cannot honour.
    """
    for name, (harmless, reason) in _REFUSED.items():
        if flags.get(name, harmless) not in (harmless, None):
            raise ConfigError(f"--{name} {flags[name]} cannot be combined with --strategy: {reason}")
    if flags.get("split") and flags.get("id_range") is not None:
        raise ConfigError("--split solves every fold of the suite; leave out --id_range")
    if flags["dataset"] not in ("mbpp", "humaneval"):
        raise ConfigError(f"--dataset must be mbpp or humaneval with --strategy, not {flags['dataset']!r}")
    backbone = BackboneOptions(
        model=str(flags["model"]),
        backend=str(flags["backend"]),
        dtype=str(flags["dtype"]),
        base_url=flags.get("base_url"),
        force_base_prompt=bool(flags.get("force_base_prompt", False)),
    )
    return SolveOptions(
        strategy=StrategyOptions.parse({k: flags.get(k) for k in STRATEGY_FLAGS}),
        backbone=backbone,
        suite=flags["dataset"],
        root=Path(str(flags.get("root", "evalplus_results"))),
        resume=bool(flags.get("resume", True)),
        id_range=_id_range(flags.get("id_range")),
    )


def in_evalplus_words(message: str) -> str:
    """An error's text with the flags that promptrl and EvalPlus spell differently as EvalPlus's user types them."""
    return message.replace("--base-url", "--base_url")


def _solve(flags: Mapping[str, Any]) -> str:
    parse_flags(flags)  # a slip is reported before anything is loaded
    from promptrl_plugin.harnesses.worker import solve_apart

    return str(solve_apart(flags))


def _strategy_parameters() -> dict[str, Parameter]:
    return {k: Parameter(k, Parameter.POSITIONAL_OR_KEYWORD, default=None) for k in STRATEGY_FLAGS}


def _command(function: Callable[..., Any], parameters: Mapping[str, Parameter], summary: str) -> Callable[..., Any]:
    """What Fire sees: every flag by name with its default, the strategy's explained.

    Fire fills in defaults, so a flag left at its default is not passed on; the harness has its own.
    """
    defaults = {k: _DEFAULTS.get(k, p.default) for k, p in parameters.items()}

    def command(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(defaults, args, strict=False)), **kwargs}
        return function(**{k: v for k, v in given.items() if v != defaults[k]})

    command.__name__ = function.__name__
    summary += " The defaults shown apply with --strategy; without it, EvalPlus's own do."
    command.__doc__ = f"{summary}\n\nArgs:\n" + "".join(f"    {k}: {v}\n" for k, v in STRATEGY_FLAGS.items())
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [Parameter(k, Parameter.POSITIONAL_OR_KEYWORD, default=v) for k, v in defaults.items()]
    )
    return command


def _main(original: Callable[[], None], command: Callable[..., Any]) -> Callable[[], None]:
    """A ``main`` that runs `command` where a strategy or help is asked for, and the harness's own otherwise."""

    @functools.wraps(original)
    def main() -> None:
        if not concerns_us(sys.argv[1:]):
            original()
            return
        from fire import Fire

        try:
            args = sys.argv[1:]
            _check_names(_flag_names(args) - {"help"}, inspect.signature(command).parameters)
            Fire(command, command=["--help"] if _asks_help(args) else args)
        except UserError as e:
            sys.stderr.write(f"promptrl: {e}\n")
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            sys.stderr.write("promptrl: interrupted; run the same command again to go on\n")
            raise SystemExit(130) from None

    return main


def _asks_help(args: Sequence[str]) -> bool:
    return "--help" in args or "-h" in args


def _flag_names(args: Sequence[str]) -> set[str]:
    """Names of the long flags of a command line, as Fire reads them."""
    return {a[2:].partition("=")[0].replace("-", "_") for a in args if a.startswith("--") and a != "--"}


def _check_names(given: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise unknown_flag(name, [*known, *STRATEGY_FLAGS])


def _id_range(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        low, high = (int(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"--id_range must be two numbers, e.g. [0,100], not {value!r}") from None
    if low >= high:
        raise ConfigError(f"--id_range must be increasing, not {value!r}")
    return low, high
