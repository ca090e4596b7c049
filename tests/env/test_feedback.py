"""What feedback shows, and that what could not be judged is an error."""

from __future__ import annotations

import pytest
from doubles import ExecJudge, train_task

from promptrl_plugin.checking.base import JudgeRequest, ends_with
from promptrl_plugin.env.feedback import (
    NoFeedback,
    OracleFeedback,
    VisibleFeedback,
    judge_hidden,
    make_checker,
    passes_hidden,
)
from promptrl_plugin.errors import JudgeError
from promptrl_plugin.records import AssertGroup, FailureKind, Feedback, GroupVerdict, Status, Task
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests

VISIBLE_ONLY = "def f3(x):\n    return 4\n"  # passes f3(1) == 4, fails f3(5) == 8


def test_none_shows_nothing_visible_shows_the_visible_tests_oracle_all():
    task, hidden = train_task(3).task, train_task(3).hidden
    judge = ExecJudge()
    assert NoFeedback()([(task, VISIBLE_ONLY)]) == [None]
    (shown,) = VisibleFeedback(judge)([(task, VISIBLE_ONLY)])
    assert shown is not None
    assert (shown.status, shown.total) == (Status.PASS, 1)
    (oracle,) = OracleFeedback(judge, {task.id: hidden})([(task, VISIBLE_ONLY)])
    assert oracle is not None
    assert (oracle.status, oracle.passed) == (Status.FAIL, (True, False))


def test_a_task_without_visible_tests_shows_nothing():
    task = Task("T/1", "t", "mbpp", "p", "f", AssertGroup(()))
    assert VisibleFeedback(ExecJudge())([(task, "x = 1")]) == [None]


def test_oracle_needs_the_hidden_tests():
    with pytest.raises(ValueError, match="hidden"):
        make_checker(Feedback.ORACLE, ExecJudge())


class FixedJudge:
    """Gives every group the same verdict and records what it was asked."""

    version = "fixed"

    def __init__(self, verdict: GroupVerdict) -> None:
        self.verdict = verdict
        self.groups: list[object] = []

    def check(self, requests: list[JudgeRequest], on_progress: object = None) -> list[tuple[GroupVerdict | None, ...]]:
        ends = [ends_with(self.verdict, r.stop_early, r.stop_hung) for r in requests]
        self.groups += [g for r, end in zip(requests, ends, strict=True) for g in (r.groups[:1] if end else r.groups)]
        return [
            tuple(None if end and i else self.verdict for i in range(len(r.groups)))
            for r, end in zip(requests, ends, strict=True)
        ]

    def close(self) -> None: ...


def test_an_undecided_program_is_an_error_and_never_a_zero():
    task = train_task(1)
    judge = FixedJudge(GroupVerdict(Status.ERROR, (), 2, detail="worker died"))
    with pytest.raises(JudgeError, match=r"Test/1.*worker died"):
        VisibleFeedback(judge)([(task.task, "x = 1")])
    with pytest.raises(JudgeError, match="worker died"):
        judge_hidden(judge, [(task.task, task.hidden, "x = 1")])


def test_a_program_that_hangs_on_base_is_not_run_on_plus():
    task = train_task(1).task
    base, plus = (CallGroup("mbpp", "Test/1", "f1", "", ([1],) * n, 0.0, k) for n, k in ((2, "base"), (5, "plus")))
    hanging = FixedJudge(GroupVerdict(Status.TIMEOUT, (), 2, FailureKind.TIMEOUT))
    ((first, second),) = judge_hidden(hanging, [(task, HiddenTests(base, plus, ""), "while True: pass")])
    assert hanging.groups == [base]
    assert (first.total, second.total, second.status) == (2, 5, Status.TIMEOUT)
    failing = FixedJudge(GroupVerdict(Status.FAIL, (False,), 2, FailureKind.WRONG_VALUE))
    judge_hidden(failing, [(task, HiddenTests(base, plus, ""), "x = 1")])
    assert failing.groups == [base, plus]


def test_whether_a_program_passes_is_asked_fail_fast():
    task = train_task(3)
    right, wrong = "def f3(x):\n    return x + 3\n", VISIBLE_ONLY
    assert passes_hidden(ExecJudge(), [(task.task, task.hidden, p) for p in (right, wrong)]) == [True, False]
    judge = FixedJudge(GroupVerdict(Status.ERROR, (), 2, detail="worker died"))
    with pytest.raises(JudgeError, match="worker died"):
        passes_hidden(judge, [(task.task, task.hidden, "x = 1")])
