"""From options to a samples file: the straight line that every harness's command line shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import promptrl_plugin
from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.checking.base import Judge
from promptrl_plugin.config import TAKES_POLICY, EnvConfig, JudgeConfig, env_of, load, to_dict
from promptrl_plugin.env.feedback import Checker, NoFeedback, make_checker
from promptrl_plugin.errors import BundleError, ConfigError, DataError, UnknownNameError
from promptrl_plugin.harnesses.listener import Listener
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
from promptrl_plugin.harnesses.samples import SampleFiles, samples_path
from promptrl_plugin.records import Feedback, Sample, Task, content_hash
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.strategies.base import Strategy
from promptrl_plugin.suites.base import Suite

__all__ = [
    "OnSolved",
    "Owed",
    "check_policy",
    "check_request",
    "check_visible",
    "counted_from",
    "open_backbone",
    "open_checker",
    "run",
    "solve_suite",
    "solve_suites",
]

OnSolved = Callable[[int, Path], None]
"""Called with the position of a request and its samples file."""

Opened = tuple[SolveOptions, Strategy, str]
"""What is asked for, its strategy, and the hash of its policy."""


def run(options: SolveOptions, listener: Listener, on_open: Callable[[Backbone], object] | None = None) -> Path:
    """Load the suite and the model, solve every owed task, return the samples file.

    Args:
        options: What is asked for.
        listener: Follows it.
        on_open: Called with the model.

    Raises:
        UserError: Unknown names, missing data or model, no fitting policy, a leaking split, …
    """
    from promptrl_plugin.backbones.registry import check_base_url
    from promptrl_plugin.harnesses.crossfit import solve_crossfit
    from promptrl_plugin.suites.registry import load_suite

    check_request(options.strategy, options.backbone.model)
    check_base_url(options.backbone.backend, options.backbone.base_url)
    suite = load_suite(options.suite)
    check_visible(options.strategy.feedback, suite)
    with ExitStack() as stack:
        cache = stack.enter_context(Cache())
        backbone = open_backbone(options.backbone, cache)
        stack.callback(backbone.close)
        if on_open is not None:
            on_open(backbone)
        solve = solve_crossfit if options.strategy.split else solve_suite
        return solve(options, suite, backbone, listener)


def solve_suite(options: SolveOptions, suite: Suite, backbone: Backbone, listener: Listener) -> Path:
    """Solve every owed task of `suite` and append its sample; returns the samples file.

    A second call with the same options solves only what is missing.
    """
    return solve_suites([options], suite, backbone, listener)[0]


def solve_suites(
    requests: Sequence[SolveOptions],
    suite: Suite,
    backbone: Backbone,
    listener: Listener,
    on_solved: OnSolved | None = None,
) -> list[Path]:
    """`solve_suite` for several options, each begun while the last tasks of the one before are still written.

    Args:
        requests: What is asked for; all on `suite`.
        suite, backbone, listener: As for one.
        on_solved: Called with position and samples file of each as soon as it and all before it are solved.
    """
    paths: list[Path] = []
    for together in _together([(options, *open_strategy(options.strategy, backbone)) for options in requests]):
        with ExitStack() as stack:
            owed: list[Owed] = []
            for options, strategy, policy in together:
                what = identity(options, suite, backbone, policy)
                path = samples_path(options, suite.evalplus_dataset or suite.name, what)
                files = stack.enter_context(SampleFiles(path, (t.id for t in suite.tasks()), resume=options.resume))
                owed.append(Owed(options, select(suite.tasks(), options.id_range), strategy, files))
            solve_owed(owed, suite, backbone, listener, counted_from(len(paths), on_solved))
            paths += [o.files.path for o in owed]
    return paths


def counted_from(first: int, on_solved: OnSolved | None) -> OnSolved | None:
    """`on_solved`, to be called with positions that count from `first`."""
    return None if on_solved is None else lambda i, path: on_solved(first + i, path)


def _together(opened: Sequence[Opened]) -> Iterator[list[Opened]]:
    """Runs of requests that can be solved together: that see the same and have the same rewriter."""
    for _, run in itertools.groupby(opened, lambda o: (o[0].strategy.feedback, id(o[1].rewriter))):
        yield list(run)


@dataclass(frozen=True, slots=True)
class Owed:
    """Tasks that a strategy has to solve, and where their samples go; those that have one are done."""

    options: SolveOptions
    tasks: Sequence[Task]
    strategy: Strategy
    files: SampleFiles


def solve_owed(
    owed: Sequence[Owed],
    suite: Suite,
    backbone: Backbone,
    listener: Listener,
    on_solved: OnSolved | None = None,
) -> None:
    """Solve those of the tasks that have no sample yet.

    Args:
        owed: Tasks by strategy; all with the same feedback.
        suite, backbone, listener: As for `solve_suites`.
        on_solved: Called with position and samples file of each as soon as it and all before it are solved.
    """
    from promptrl_plugin.strategies.runner import Assignment, solve_together

    left = [[t for t in o.tasks if t.id not in o.files.done] for o in owed]
    missing = [len(tasks) for tasks in left]
    total = sum(len(o.tasks) for o in owed)
    label = ", ".join(dict.fromkeys(o.strategy.name for o in owed))
    ended = 0

    def follow() -> None:
        nonlocal ended
        while ended < len(missing) and not missing[ended]:
            ended += 1
            if on_solved is not None:
                on_solved(ended - 1, owed[ended - 1].files.path)

    def assignment(i: int) -> Assignment:
        o, chosen = owed[i], owed[i].options.strategy

        def on_sample(sample: Sample) -> None:
            o.files.append(sample)
            listener.sample()
            missing[i] -= 1
            follow()

        return Assignment(
            left[i], o.strategy, chosen.feedback, chosen.budget, chosen.seed, chosen.env(), on_sample=on_sample
        )

    listener.begin(label, total - sum(missing), total, owed[0].files.path)
    try:
        follow()
        if work := [assignment(i) for i, tasks in enumerate(left) if tasks]:
            with ExitStack() as stack:
                checker = open_checker(work[0].feedback, suite, stack, _cache_of(backbone))
                solve_together(work, backbone, checker, listener.generation)
    finally:
        listener.end()


def open_backbone(options: BackboneOptions, cache: Cache) -> Backbone:
    """The backbone that EvalPlus's words name, remembering its completions in `cache`.

    Raises:
        BackboneError: It cannot be found or loaded.
        ConfigError: ``--force_base_prompt`` for a server, which decides itself what it puts around a prompt.
    """
    from promptrl_plugin.backbones.registry import load_backbone

    backbone = load_backbone(options.model, backend=options.backend, dtype=options.dtype, base_url=options.base_url)
    if options.force_base_prompt:
        if options.backend != "hf":
            raise ConfigError(f"--force_base_prompt is for --backend hf, not {options.backend}; leave it out")
        backbone.chat = False
    return CachingBackbone(backbone, cache)


def check_strategy(name: str) -> None:
    """Report an unknown name before a model is loaded.

    Raises:
        UnknownNameError: There is no such strategy.
    """
    from promptrl_plugin.strategies.registry import strategy_names

    if name not in strategy_names():
        raise UnknownNameError("strategy", name, strategy_names())


def check_request(options: StrategyOptions, model: str = "MODEL") -> None:
    """Report an unknown strategy, a policy that is not there or is another's, and settings that cannot work.

    That is before a model is loaded.

    Args:
        options: What is asked for.
        model: Name of the model, for the command that trains a policy.

    Raises:
        UnknownNameError: There is no such strategy.
        ConfigError: The settings of a split are missing, or cannot work.
        BundleError: The policy is missing, damaged, or another learner's; or none was given and none ships.
    """
    from promptrl_plugin.agent.bundle import PolicyBundle
    from promptrl_plugin.strategies.registry import check_shipped

    check_strategy(options.strategy)
    if options.config is not None:
        load(options.config)
    if options.policy is None and options.split is None:
        check_shipped(options.strategy, model)
    if options.policy is not None and options.strategy in TAKES_POLICY:
        PolicyBundle.load(options.policy).check_strategy(options.strategy)
    elif options.policy is not None and not options.policy.exists():  # another package's, which reads it later
        raise BundleError(f"there is no policy at {options.policy}; check the path")


def check_policy(options: StrategyOptions, backbone: Backbone) -> None:
    """Report that no policy fits the model before anything is solved or written.

    Raises:
        BundleError: None does; names the command that trains one.
    """
    from promptrl_plugin.strategies.registry import check_fitting

    if options.split is None:
        check_fitting(options.strategy, backbone, options.policy)


def check_visible(feedback: Feedback, suite: Suite) -> None:
    """Make sure that visible feedback has something to show; single tasks may lack visible tests.

    Raises:
        DataError: It has not, in the whole suite.
    """
    if feedback is Feedback.VISIBLE and not any(t.visible.count for t in suite.tasks()):
        raise DataError(
            f"no task of suite {suite.name} shows a test in its prompt, so there is no feedback to see; "
            "use --feedback none, or data whose prompts show a test"
        )


def open_strategy(options: StrategyOptions, backbone: Backbone) -> tuple[Strategy, str]:
    """The strategy, and the hash of its policy (empty where it has none).

    Raises:
        UnknownNameError: There is no such strategy.
        BundleError: No policy fits the backbone; names the command that trains one.
    """
    from promptrl_plugin.strategies.registry import make_strategy

    strategy = make_strategy(options.strategy, policy=options.policy, backbone=backbone, cache=_cache_of(backbone))
    told = getattr(strategy, "policy_hash", None)
    if told is None and options.policy is not None:  # another package's, which does not tell
        return strategy, _hash_of(options.policy)
    return strategy, str(told or "")


def _hash_of(policy: Path) -> str:
    """Hash of a policy's files, for samples of different policies to go into different files."""
    files = sorted(p for p in policy.rglob("*") if p.is_file()) if policy.is_dir() else [policy]
    return content_hash([(p.relative_to(policy).as_posix(), sha256(p.read_bytes()).hexdigest()) for p in files])


def open_checker(feedback: Feedback, suite: Suite, stack: ExitStack, cache: Cache | None = None) -> Checker:
    """What `feedback` shows; the judge's workers end with `stack`. Hidden tests are read for oracle only.

    Raises:
        DataError: Visible tests are to be shown, and there are none.
    """
    if feedback is Feedback.NONE:
        return NoFeedback()
    check_visible(feedback, suite)
    from promptrl_plugin.checking.caching import CachingJudge
    from promptrl_plugin.checking.judge import IsolatedJudge

    judge: Judge = IsolatedJudge(JudgeConfig())
    stack.callback(judge.close)
    if cache is not None:
        judge = CachingJudge(judge, cache)
    return make_checker(feedback, judge, suite.hidden() if feedback is Feedback.ORACLE else None)


def select(tasks: Sequence[Task], id_range: tuple[int, int] | None) -> list[Task]:
    """The tasks whose number lies in ``[low, high)``, as EvalPlus's ``--id_range``.

    Raises:
        ConfigError: There is none.
    """
    if id_range is None:
        return list(tasks)
    low, high = id_range
    chosen = [t for t in tasks if (number := t.id.rpartition("/")[2]).isdecimal() and low <= int(number) < high]
    if not chosen:
        raise ConfigError(f"no task has a number from {low} to {high - 1}; correct --id_range")
    return chosen


def identity(options: SolveOptions, suite: Suite, backbone: Backbone, policy: str) -> dict[str, Any]:
    """All that changes the samples besides the options that the file's name spells out."""
    usual = env_of(options.strategy.protocol)
    env = to_dict(replace(usual, budget=EnvConfig().budget, feedback=EnvConfig().feedback))
    del env["selector"]  # spelled out, as are budget and feedback
    return {
        "suite": [suite.name, suite.version],
        "backbone": backbone.fingerprint,
        "chat": backbone.chat,
        "policy": policy,
        "env": env,
        "promptrl": promptrl_plugin.__version__,
    }


def _cache_of(backbone: Backbone) -> Cache | None:
    """The cache behind a backbone, for verdicts and embeddings; a harness's own model has none."""
    return backbone.cache if isinstance(backbone, CachingBackbone) else None
