"""What a strategy may see of execution on a task: nothing, the visible tests, or (oracle) all tests."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from promptrl_plugin.checking.base import GIVE_UP_AFTER, Judge, JudgeRequest, ProbeRequest, TestGroup
from promptrl_plugin.checking.outcomes import VIEWS
from promptrl_plugin.checking.probes import ProbeGroup
from promptrl_plugin.errors import JudgeError
from promptrl_plugin.prompts.contract import UNKNOWN, visible_calls
from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.records import FailureKind, Feedback, GroupVerdict, Status, Task
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = [
    "Checker",
    "Executor",
    "JudgeExecutor",
    "NoFeedback",
    "OracleFeedback",
    "VisibleFeedback",
    "as_executor",
    "judge_hidden",
    "make_checker",
    "passes_hidden",
    "probe_group",
]


class Checker(Protocol):
    """Answers `Check` effects: what the feedback mode shows of each program, or None."""

    def __call__(self, programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]: ...


@runtime_checkable
class Executor(Protocol):
    """A checker that also answers `Execute` effects: one outcome a generated input, none where there are none."""

    def execute(self, programs: Sequence[tuple[Task, str]]) -> list[tuple[str, ...]]: ...


def as_executor(checker: Checker) -> Executor:
    """`checker` if it may execute programs, else one that executes nothing (``feedback=none``)."""
    return checker if isinstance(checker, Executor) else _NoExecutor()


class _NoExecutor:
    def execute(self, programs: Sequence[tuple[Task, str]]) -> list[tuple[str, ...]]:
        return [()] * len(programs)


class JudgeExecutor:
    """Runs programs in the judge, on inputs generated from the visible ones whatever the feedback mode.

    Programs that differ only in layout or comments are the same program here.

    Raises:
        JudgeError: A program could not be run (never a silent difference).
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def execute(self, programs: Sequence[tuple[Task, str]]) -> list[tuple[str, ...]]:
        groups = [probe_group(task) for task, _ in programs]
        requests = [
            ProbeRequest(_normalised(p), g) for (_, p), g in zip(programs, groups, strict=True) if g is not None
        ]
        ran = iter(self._judge.execute(requests) if requests else ())
        out: list[tuple[str, ...]] = []
        for (task, _), group in zip(programs, groups, strict=True):
            outcomes = () if group is None else next(ran)
            if outcomes is None:
                raise JudgeError(f"{task.id}: a program could not be run on generated inputs; run it again")
            out.append(outcomes)
        return out


class NoFeedback:
    """``feedback=none``: nothing is executed."""

    def __call__(self, programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        return [None] * len(programs)


class VisibleFeedback(JudgeExecutor):
    """``feedback=visible``: the outcome of the visible tests; None for a task that has none.

    Raises:
        JudgeError: A program could not be judged (never a silent failure).
    """

    def __call__(self, programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        shown = [i for i, (task, _) in enumerate(programs) if task.visible.count]
        verdicts = self._judge.check([JudgeRequest(programs[i][1], (programs[i][0].visible,)) for i in shown])
        out: list[GroupVerdict | None] = [None] * len(programs)
        for i, (verdict,) in zip(shown, verdicts, strict=True):
            out[i] = _decided(verdict, programs[i][0])
        return out


class OracleFeedback(JudgeExecutor):
    """``feedback=oracle``: the visible and hidden tests as one group (the paper's protocol).

    Results made with it carry the mark *oracle* and are not eligible for a leaderboard entry.
    """

    def __init__(self, judge: Judge, hidden: Mapping[str, HiddenTests]) -> None:
        super().__init__(judge)
        self._hidden = hidden

    def __call__(self, programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        hidden = judge_hidden(self._judge, [(task, self._hidden[task.id], p) for task, p in programs])
        return [_merge(verdicts) for verdicts in hidden]


@functools.lru_cache(maxsize=4096)
def probe_group(task: Task) -> ProbeGroup | None:
    """What inputs are generated from: the task's visible calls, as far as they can be read; None without any.

    None for APPS, too: its scripts are not called, and its functions may be methods.
    """
    if task.dialect == "apps":
        return None
    calls = [c for c in visible_calls(task) if c.arguments and not any(a is UNKNOWN for a in c.arguments)]
    if not calls:
        return None
    wrappers = {c.wrapper for c in calls}
    view = wrappers.pop() if len(wrappers) == 1 else ""
    sources = tuple(dict.fromkeys(repr(c.arguments) for c in calls))
    return ProbeGroup(task.entry_point, sources, view if view in VIEWS else "")


def judge_hidden(judge: Judge, programs: Sequence[tuple[Task, HiddenTests, str]]) -> list[tuple[GroupVerdict, ...]]:
    """Run the hidden groups (base, then plus where there is one) of each program.

    A program that ran out of time on its base tests is not run on the plus tests, and one that ran out of time on
    `GIVE_UP_AFTER` tests of a group not on the rest of it, which would take a minute: those count as failed.

    Raises:
        JudgeError: A program could not be judged.
    """
    requests = [JudgeRequest(p, t.groups, give_up_after=GIVE_UP_AFTER, stop_hung=True) for _, t, p in programs]
    return [
        tuple(
            _not_run(group) if i and verdict is None else _decided(verdict, task)
            for i, (verdict, group) in enumerate(zip(verdicts, tests.groups, strict=True))
        )
        for verdicts, (task, tests, _) in zip(judge.check(requests), programs, strict=True)
    ]


def passes_hidden(judge: Judge, programs: Sequence[tuple[Task, HiddenTests, str]]) -> list[bool]:
    """Whether each program passes all hidden tests; stops at its first failure, so no soft score comes of it.

    Raises:
        JudgeError: A program could not be judged.
    """
    requests = [JudgeRequest(p, tests.groups, fail_fast=True, stop_early=True) for _, tests, p in programs]
    return [
        all(v is not None and _decided(v, task).status is Status.PASS for v in verdicts)  # None: after a failure
        for verdicts, (task, _, _) in zip(judge.check(requests), programs, strict=True)
    ]


def _not_run(group: TestGroup) -> GroupVerdict:
    return GroupVerdict(Status.TIMEOUT, (), group.count, FailureKind.TIMEOUT, "not run after a timeout")


def make_checker(feedback: Feedback, judge: Judge, hidden: Mapping[str, HiddenTests] | None = None) -> Checker:
    """The checker of a feedback mode; `hidden` is needed for (and used by) oracle only."""
    if feedback is Feedback.NONE:
        return NoFeedback()
    if feedback is Feedback.VISIBLE:
        return VisibleFeedback(judge)
    if hidden is None:
        raise ValueError("feedback=oracle needs the hidden tests")
    return OracleFeedback(judge, hidden)


def _decided(verdict: GroupVerdict | None, task: Task) -> GroupVerdict:
    if verdict is None or verdict.status is Status.ERROR:
        reason = verdict.detail if verdict is not None else "no verdict"
        raise JudgeError(f"{task.id}: a program could not be judged: {reason}")
    return verdict


def _merge(verdicts: Sequence[GroupVerdict]) -> GroupVerdict:
    """One verdict of several groups: the first that did not pass decides status, failure and detail."""
    worst = next((v for v in verdicts if v.status is not Status.PASS), verdicts[0])
    passed: list[bool] = []
    for v in verdicts:
        passed += [*v.passed, *([False] * (v.total - len(v.passed)))]
    return GroupVerdict(worst.status, tuple(passed), sum(v.total for v in verdicts), worst.failure, worst.detail)


def _normalised(program: str) -> str:
    """The program without comments and in one layout; as it is where that cannot be had."""
    tree = parsed(program)
    try:
        return ast.unparse(tree) if tree is not None else program
    except (ValueError, RecursionError):
        return program
