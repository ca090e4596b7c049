"""Time limits on a machine that has other things to do."""

from __future__ import annotations

from typing import Any

import pytest

from promptrl_plugin.checking.launch import WorkerSettings
from promptrl_plugin.checking.runner import Job
from promptrl_plugin.checking.worker import Worker
from promptrl_plugin.checking.zygote_client import never
from promptrl_plugin.records import AssertGroup, FailureKind, GroupVerdict, Status

LATE = GroupVerdict(Status.FAIL, (False,), 1, FailureKind.TIMEOUT, "f(1) took too long")
PASS = GroupVerdict(Status.PASS, (True,), 1, None, "")
WRONG = GroupVerdict(Status.FAIL, (False,), 1, FailureKind.WRONG_VALUE, "f(1) returned 2")


class SharedProcessor:
    """A zygote whose programs live `stretch` seconds for each second of CPU."""

    def __init__(self, stretch: float, *verdicts: GroupVerdict, computed: float = 0.5) -> None:
        self.stretch, self.computed = stretch, computed
        self.verdicts = list(verdicts)
        self.asked: list[tuple[list[float], bool]] = []

    def run(self, job: Job, graders: Any, ends: Any) -> list[GroupVerdict]:
        self.asked.append((job.parts[0].limits, job.fail_fast))
        return [self.verdicts.pop(0)]


def judged(zygote: SharedProcessor) -> GroupVerdict:
    worker = Worker.__new__(Worker)
    worker._settings = WorkerSettings("", "", 0, 1.0, 4.0, "strict", ())
    worker._zygote = zygote  # type: ignore[assignment]
    group = AssertGroup(("assert f(1) == 1",))
    (verdict,) = worker._first_verdicts(
        "def f(x):\n    return x\n", [group], fail_fast=False, ends=never, give_up_after=0
    )
    return verdict


def test_a_program_that_had_to_wait_for_the_processor_gets_that_time_back() -> None:
    runner = SharedProcessor(2.5, LATE, PASS)
    assert judged(runner) is PASS
    assert runner.asked == [([1.0], False), ([2.5], True)]


def test_what_is_late_again_keeps_its_first_verdict() -> None:
    again = GroupVerdict(Status.FAIL, (), 1, FailureKind.TIMEOUT, "")
    assert judged(SharedProcessor(2.5, LATE, again)) is LATE


def test_time_that_a_program_computed_itself_is_not_given_back() -> None:
    """A program that catches its timeout and goes on must not pass because the limit was stretched."""
    assert judged(SharedProcessor(2.5, LATE, PASS, computed=1.8)) is LATE


@pytest.mark.parametrize(("stretch", "verdict"), [(1.0, LATE), (1.1, LATE), (40.0, LATE), (2.5, WRONG), (2.5, PASS)])
def test_others_run_once(stretch: float, verdict: GroupVerdict) -> None:
    runner = SharedProcessor(stretch, verdict)
    assert judged(runner) is verdict
    assert runner.asked == [([1.0], False)]
