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
    """A zygote whose programs live `stretch` seconds for each second of CPU, and take that share of their limits."""

    def __init__(self, stretch: float, *verdicts: GroupVerdict, computed: float = 0.5, near: float = 0.0) -> None:
        self.stretch, self.computed, self.near = stretch, computed, near
        self.verdicts = list(verdicts)
        self.asked: list[tuple[list[float], bool]] = []

    def run(self, job: Job, graders: Any, ends: Any) -> list[GroupVerdict]:
        self.asked.append((job.parts[0].limits, job.fail_fast))
        graders[0].nearest = self.near
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
    assert judged(SharedProcessor(2.5, LATE, again, LATE, again)) is LATE


def test_time_that_a_program_computed_itself_is_not_given_back() -> None:
    """A program that catches its timeout and goes on must not pass because the limit was stretched."""
    assert judged(SharedProcessor(2.5, LATE, PASS, LATE, PASS, computed=1.8)) is LATE


@pytest.mark.parametrize("stretch", [1.0, 1.1, 40.0])
def test_no_time_is_given_back_to_a_program_that_did_not_wait_or_slept(stretch: float) -> None:
    runner = SharedProcessor(stretch, LATE, LATE)
    assert judged(runner) is LATE
    assert runner.asked == [([1.0], False), ([1.0], True)]  # judged twice, with plain limits


@pytest.mark.parametrize(("stretch", "verdict", "near"), [(2.5, WRONG, 0.9), (2.5, PASS, 0.4)])
def test_others_run_once(stretch: float, verdict: GroupVerdict, near: float) -> None:
    runner = SharedProcessor(stretch, verdict, near=near)
    assert judged(runner) is verdict
    assert runner.asked == [([1.0], False)]


SLOW_PASS = GroupVerdict(Status.PASS, (True,), 1, None, "another judging")
STILL_LATE = GroupVerdict(Status.FAIL, (False,), 1, FailureKind.TIMEOUT, "another judging")


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ((LATE, STILL_LATE), LATE),
        ((LATE, PASS, STILL_LATE), LATE),
        ((LATE, PASS, SLOW_PASS), SLOW_PASS),
        ((PASS, SLOW_PASS), PASS),
        ((PASS, LATE, SLOW_PASS), PASS),
        ((PASS, LATE, STILL_LATE), STILL_LATE),
    ],
)
def test_two_judgings_of_three_decide_where_the_clock_does(
    verdicts: tuple[GroupVerdict, ...], counts: GroupVerdict
) -> None:
    runner = SharedProcessor(1.0, *verdicts, near=0.9)
    assert judged(runner) is counts
    assert not runner.verdicts  # no judging was made that could not matter, none left out
