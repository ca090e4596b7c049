"""Scores and EvalPlus's result file."""

from __future__ import annotations

import pytest

from promptrl_plugin.checking.results import JudgedSample, evalplus_results, score
from promptrl_plugin.errors import JudgeError
from promptrl_plugin.records import GroupVerdict, Status
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests


def verdict(passed: str, status: Status, total: int = 0) -> GroupVerdict:
    return GroupVerdict(status, tuple(p == "1" for p in passed), total or len(passed))


GOOD, BAD = verdict("11", Status.PASS), verdict("10", Status.FAIL)


def group(task_id: str, kind: str) -> CallGroup:
    inputs = ([1], [2]) if kind == "base" else ([{1}], [2], [3])
    return CallGroup("mbpp", task_id, "f", "def f(x): return x", inputs, 0, kind)


def hidden(task_id: str) -> HiddenTests:
    return HiddenTests(group(task_id, "base"), group(task_id, "plus"), "")


def test_strict_and_soft() -> None:
    samples = [
        JudgedSample("a", "", GOOD, verdict("111", Status.PASS)),
        JudgedSample("b", "", GOOD, verdict("1", Status.TIMEOUT, total=3)),
        JudgedSample("c", "", BAD, verdict("", Status.FAIL, total=3)),
        JudgedSample("c", "", GOOD, verdict("111", Status.PASS)),
    ]
    scores = score(samples)
    assert scores.tasks == 3
    assert scores.base == pytest.approx((1 + 1 + 0.5) / 3)
    assert scores.strict == pytest.approx((1 + 0 + 0.5) / 3)
    assert scores.soft_base == pytest.approx((1 + 1 + 0.75) / 3)
    assert scores.soft == pytest.approx((1 + 3 / 5 + (1 / 5 + 1) / 2) / 3)


def test_no_samples() -> None:
    assert score([]).tasks == 0


def test_an_error_is_never_a_zero() -> None:
    broken = JudgedSample("a", "", GroupVerdict(Status.ERROR, (), 2, None, "worker died"), None)
    for function in (lambda: score([broken]), lambda: evalplus_results([broken], {"a": hidden("a")}, "")):
        with pytest.raises(JudgeError, match="a could not be judged: worker died"):
            function()


def test_evalplus_format() -> None:
    sample = JudgedSample("Mbpp/2", "code", BAD, verdict("011", Status.FAIL))
    kwargs = {"hidden": {"Mbpp/2": hidden("Mbpp/2")}, "dataset_hash": "h"}
    fast = evalplus_results([sample], **kwargs)
    assert set(fast) == {"date", "hash", "eval"}
    assert fast["hash"] == "h"
    (row,) = fast["eval"]["Mbpp/2"]
    assert list(row) == [
        "task_id", "solution", "base_status", "plus_status", "base_fail_tests", "plus_fail_tests",
    ]  # fmt: skip
    assert (row["base_status"], row["plus_status"]) == ("fail", "fail")


def test_fail_tests_follow_evalplus() -> None:
    h = HiddenTests(group("Mbpp/2", "base"), group("Mbpp/2", "plus"), "")
    sample = JudgedSample("Mbpp/2", "", BAD, verdict("010", Status.FAIL))
    last = evalplus_results([sample], {"Mbpp/2": h}, "")["eval"]["Mbpp/2"][0]
    assert (last["base_fail_tests"], last["plus_fail_tests"]) == ([[2]], [[3]])
    every = evalplus_results([sample], {"Mbpp/2": h}, "", test_details=True)["eval"]["Mbpp/2"][0]
    assert (every["base_fail_tests"], every["plus_fail_tests"]) == ([[2]], [[{1}], [3]])
