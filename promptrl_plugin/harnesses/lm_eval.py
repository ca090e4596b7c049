"""promptrl's tasks in lm-evaluation-harness: its LM is the backbone, its table shows strict and soft pass@1.

The YAML files in ``tasks/`` name `StrategyTask` as their class. The harness makes its first pass with
EvalPlus's prompt; the strategy goes on from there in `StrategyTask.apply_filters`, which the harness
calls once after that pass. Three extensions of unmodified lm-eval releases (0.4.9 to 0.4.13), applied
when its modules are imported: `extend_tasks` registers the folder, `extend_evaluator` hands the LM to our
tasks and gives the bare command line its model, `extend_main` makes errors one line.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from promptrl_plugin.config import DEFAULT_BACKBONE, LEARNED
from promptrl_plugin.errors import ConfigError, UserError
from promptrl_plugin.harnesses.options import STRATEGY_FLAGS

__all__ = ["TASK_NAMES", "extend_evaluator", "extend_main", "extend_tasks", "options_given", "tasks_folder"]

TASK_NAMES = frozenset(
    f"{suite}_{strategy.replace('-', '_')}"
    for suite in ("mbpp_plus", "humaneval_plus", "apps")
    for strategy in ("direct", *LEARNED)
)

#: Names of lm-eval's own Transformers model, for which the bare command line has a default.
_TRANSFORMERS = frozenset({"hf", "hf-auto", "huggingface"})
_BARE_BATCH_SIZE = 16

#: Options of a strategy that cannot be given in this harness, and what does it instead.
_ELSEWHERE = {
    "strategy": "the task's name says it, e.g. --tasks mbpp_plus_gepa",
    "split": "to cross-fit, use evalplus.evaluate --split or promptrl compare --split",
    "config": "it says how --split trains, which evalplus.evaluate and promptrl compare take",
}
#: Options that the harness's user gives in ``--metadata`` or the environment.
_OPTIONS = tuple(k for k in STRATEGY_FLAGS if k not in _ELSEWHERE)
_FLAG = re.compile(rf"--({'|'.join(_OPTIONS)})(?![\w-])(?: (\d+|none|visible|oracle)\b)?")

_NEAR = 0.75  #: likeness (`difflib`) from which a key of ``--metadata`` is one of them, misspelt

_METADATA: ContextVar[Mapping[str, Any]] = ContextVar("promptrl_metadata", default={})  # noqa: B039, never written to
_log = logging.getLogger("promptrl")


def tasks_folder() -> Path:
    """Where the YAML files are: in the wheel next to the package's modules, in a checkout at its top."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_tasks"
    return inside if inside.is_dir() else package.parent / "tasks"


def extend_tasks(module: Any) -> None:
    """Make every ``TaskManager`` index our folder, so that a user's own ``--include_path`` wins over it."""
    manager = module.TaskManager
    original = manager.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(original).bind(self, *args, **kwargs)
        if not _indexed_by_harness():
            given = bound.arguments.get("include_path")
            paths = [str(p) for p in ([given] if isinstance(given, str | Path) else given or [])]
            ours = str(tasks_folder())
            bound.arguments["include_path"] = [*paths, ours] if _first_folder_wins() else [ours, *paths]
        original(*bound.args, **bound.kwargs)

    manager.__init__ = __init__


def extend_evaluator(module: Any) -> None:
    """Hand the LM to our tasks in ``evaluate``; fill in the embedded model in ``simple_evaluate``."""
    evaluate, simple_evaluate = module.evaluate, module.simple_evaluate

    @functools.wraps(evaluate)
    def evaluate_with_lm(*args: Any, **kwargs: Any) -> Any:
        call = _bind(evaluate, args, kwargs)
        with _in_lm_eval_words():
            for task in _our_tasks(call.get("task_dict") or {}):
                task.attach(call["lm"], bool(call.get("apply_chat_template")), call.get("system_instruction"))
            return evaluate(*args, **kwargs)

    @functools.wraps(simple_evaluate)
    def simple_evaluate_with_default(*args: Any, **kwargs: Any) -> Any:
        call = _bind(simple_evaluate, args, kwargs)
        with _in_lm_eval_words():
            if _names_ours(call):
                _check_metadata(call)
            if _is_bare(call):
                call.update(_embedded(call))
            elif _is_ours(call):
                call["model_args"] = _located(call.get("model_args"))
        with _metadata(call):
            return simple_evaluate(**call)

    module.evaluate = evaluate_with_lm
    module.simple_evaluate = simple_evaluate_with_default


def extend_main(module: Any) -> None:
    """Errors that the user can mend: one line on stderr, exit code 2."""
    original: Callable[..., None] = module.cli_evaluate

    @functools.wraps(original)
    def cli_evaluate(*args: Any, **kwargs: Any) -> None:
        try:
            original(*args, **kwargs)
        except UserError as e:
            sys.stderr.write(f"promptrl: {e}\n")
            raise SystemExit(2) from None

    module.cli_evaluate = cli_evaluate


def _indexed_by_harness() -> bool:
    """Whether this lm-eval finds our folder by the entry-point group ``lm_eval.tasks`` (after 0.4.13)."""
    discover = getattr(sys.modules.get("lm_eval.tasks.manager"), "discover_plugin_task_paths", None)
    if discover is None:
        return False
    return tasks_folder() in {Path(p).resolve() for p in discover()}


def _first_folder_wins() -> bool:
    """Which of two tasks of one name lm-eval keeps: the first in 0.4.9, the last from 0.4.9.1 on."""
    import lm_eval

    return bool(lm_eval.__version__ == "0.4.9")


def _bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name (the harness passes most by keyword, its users some by position)."""
    return dict(inspect.signature(function).bind_partial(*args, **kwargs).arguments)


def _our_tasks(tree: Mapping[Any, Any]) -> Iterator[Any]:
    """Our tasks in a task dictionary: flat under ``"tasks"`` (0.4.12 on), or nested by groups (before)."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _our_tasks(value)
        elif callable(getattr(value, "attach", None)) and getattr(value, "is_promptrl_task", False):
            yield value


def _names_ours(call: Mapping[str, Any]) -> bool:
    """Whether one of our tasks runs."""
    return bool(_named(call) & TASK_NAMES)


def _named(call: Mapping[str, Any]) -> set[Any]:
    """The tasks that are named."""
    return {t if isinstance(t, str) else t.get("task") for t in call.get("tasks") or [] if isinstance(t, str | dict)}


def _is_ours(call: Mapping[str, Any]) -> bool:
    """Whether it does so on lm-eval's Transformers model."""
    return _names_ours(call) and call.get("model") in _TRANSFORMERS


def _check_metadata(call: Mapping[str, Any]) -> None:
    """Refuse a misspelt option in ``--metadata``, and one that has no effect here.

    Only what looks like one of ours: the command line adds ``--model_args`` to it, and other tasks have keys of
    their own there.

    Raises:
        ConfigError: A key is nearly the name of an option, or all tasks are ours and it is one of `_ELSEWHERE`.
    """
    model_args, all_ours = call.get("model_args") or {}, _named(call) <= TASK_NAMES
    for key in call.get("metadata") or {}:
        # Of a string, any part: then it is too much that is let through.
        if key in _OPTIONS or key in model_args:
            continue
        if all_ours and key in _ELSEWHERE:
            raise ConfigError(f"{key!r} in --metadata has no effect: {_ELSEWHERE[key]}")
        if near := difflib.get_close_matches(str(key), _OPTIONS, n=1, cutoff=_NEAR):
            raise ConfigError(f"unknown option {key!r} in --metadata; did you mean {near[0]!r}?")


def _is_bare(call: Mapping[str, Any]) -> bool:
    """Whether it does so without a word on which model."""
    return _is_ours(call) and "pretrained" not in (call.get("model_args") or {})


def _located(model_args: Any) -> dict[str, Any]:
    """`model_args` with the folder of the model where ``pretrained`` is one of our aliases (`promptrl models list`)."""
    from lm_eval.utils import simple_parse_args_string

    from promptrl_plugin.backbones.loading import locate
    from promptrl_plugin.backbones.models import list_models, resolve

    given: dict[str, Any] = simple_parse_args_string(model_args) if isinstance(model_args, str) else model_args
    name = given["pretrained"]
    if name in {row.alias for row in list_models()}:
        given["pretrained"] = locate(resolve(name)).path
    return given


def _embedded(call: Mapping[str, Any]) -> dict[str, Any]:
    """What the bare command line stands for: the embedded model, its chat template, batches.

    Raises:
        BackboneError: The model is not in the cache; names the command that gets it.
    """
    from lm_eval.utils import simple_parse_args_string

    from promptrl_plugin.backbones.loading import locate
    from promptrl_plugin.backbones.models import resolve

    given = call.get("model_args") or {}
    # A dictionary is filled in place: the harness prints it above its table.
    model_args = simple_parse_args_string(given) if isinstance(given, str) else given
    model_args["pretrained"] = locate(resolve(DEFAULT_BACKBONE)).path
    filled: dict[str, Any] = {"model_args": model_args, "apply_chat_template": call.get("apply_chat_template") or True}
    if call.get("batch_size") in (None, 1, "1"):
        filled["batch_size"] = _BARE_BATCH_SIZE
    _log.warning(
        "no --model_args: taking the embedded %s, as --model_args pretrained=%s --apply_chat_template --batch_size %s",
        DEFAULT_BACKBONE,
        model_args["pretrained"],
        filled.get("batch_size", call.get("batch_size")),
    )
    return filled


@contextlib.contextmanager
def _metadata(call: Mapping[str, Any]) -> Iterator[None]:
    """Keep ``--metadata`` for `options_given`: lm-eval before 0.4.12 does not hand it to tasks with a class."""
    token = _METADATA.set(call.get("metadata") or {})
    try:
        yield
    finally:
        _METADATA.reset(token)


def options_given(task_metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """A strategy's options from ``PROMPTRL_BUDGET`` and the like, and over them from ``--metadata``."""
    environment = {k: value for k in _OPTIONS if (value := os.environ.get(_variable(k)))}
    metadata = {**(task_metadata or {}), **_METADATA.get()}
    return environment | {k: metadata[k] for k in _OPTIONS if metadata.get(k) is not None}


@contextlib.contextmanager
def _in_lm_eval_words() -> Iterator[None]:
    """Make errors of our options, which name the flags of ``promptrl``, name what lm-eval's user types."""
    try:
        yield
    except UserError as e:
        text = str(e).replace("--split crossfit", "`promptrl solve` with --split crossfit")
        text = text.replace("--backend openai", "--model local-chat-completions")
        e.args = (_FLAG.sub(_metadata_word, text),)
        raise


def _metadata_word(flag: re.Match[str]) -> str:
    name, value = flag.groups()
    if value is None:
        blank = "…" if name in ("budget", "seed") else '"…"'
        return f"--metadata '{{\"{name}\": {blank}}}' (or {_variable(name)})"
    return f"--metadata '{json.dumps({name: int(value) if value.isdecimal() else value})}'"


def _variable(option: str) -> str:
    return f"PROMPTRL_{option.upper()}"
