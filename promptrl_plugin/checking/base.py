"""The one interface to a judge of programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from promptrl_plugin.checking.probes import ProbeGroup
from promptrl_plugin.records import AssertGroup, FailureKind, GroupVerdict, PairGroup, Status
from promptrl_plugin.suites.hidden import CallGroup

__all__ = ["GIVE_UP_AFTER", "Judge", "JudgeRequest", "ProbeRequest", "TestGroup", "ends_with", "hung"]

TestGroup = AssertGroup | CallGroup | PairGroup

#: `JudgeRequest.give_up_after` wherever soft scores are made: an endless loop costs three seconds and not a minute.
GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One program and the groups of tests to run on it, in one child process.

    Attributes:
        program: Complete Python source (already sanitized).
        groups: Groups in order, e.g. visible, base, plus.
        fail_fast: Stop a group at its first failing test (EvalPlus's ``fast_check``); off for soft scores.
        give_up_after: Tests of a group that may run out of time before the rest of the group counts as failed, too
            (0: all are waited for, as EvalPlus does). Such a program has failed; only its soft score may differ.
        stop_early: Skip the groups after one that did not pass; their verdict is then None.
        stop_hung: The same after one in which a test ran out of time.
    """

    program: str
    groups: tuple[TestGroup, ...]
    fail_fast: bool = False
    stop_early: bool = False
    give_up_after: int = 0
    stop_hung: bool = False


def hung(verdict: GroupVerdict) -> bool:
    """Whether a test ran out of time."""
    return verdict.status is Status.TIMEOUT or verdict.failure is FailureKind.TIMEOUT


def ends_with(verdict: GroupVerdict, stop_early: bool, stop_hung: bool) -> bool:
    """Whether the groups after one with that verdict are skipped."""
    return (stop_early and verdict.status is not Status.PASS) or (stop_hung and hung(verdict))


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One program and the generated inputs to run it on."""

    program: str
    group: ProbeGroup


class Judge(Protocol):
    """Runs programs in isolation and returns EvalPlus's verdicts."""

    version: str  #: Part of the verdict cache key; changes when verdicts may change.

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        """Judge every request; one verdict a group, in order. `on_progress` gets the finished position.

        A program that could not be judged has status ``ERROR`` with the reason in `detail`.
        """
        ...

    def execute(self, requests: Sequence[ProbeRequest]) -> list[tuple[str, ...] | None]:
        """Run every program on its generated inputs; one outcome an input (see `checking.outcomes`).

        None for a program that could not be run.
        """
        ...

    def close(self) -> None:
        """End the worker processes; calling it twice is harmless."""
        ...
