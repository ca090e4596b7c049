"""The grader's short way: right answers by their bytes, many at once, with the same verdicts as one by one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from promptrl_plugin.checking.codec import encode
from promptrl_plugin.checking.deciding import CallTests
from promptrl_plugin.checking.expected import BIG, CallSpec, Expected, ExpectedStore
from promptrl_plugin.checking.grading import GroupGrader
from promptrl_plugin.checking.runner import HEADER, Frame
from promptrl_plugin.records import GroupVerdict, Status

VALUES = [1, "two", [3, (4,)], 0.5, None, {5: 6}]


def spec(values: list[Any]) -> CallSpec:
    return CallSpec("k", "mbpp", "f", "def f(x):\n    return x\n", pickle.dumps([[v] for v in values]), len(values), 0)


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def value(v: Any) -> bytes:
    return frame(Frame.VALUE, encode(v, 1 << 30))


BEGUN, DONE = frame(Frame.READY) + frame(Frame.IMPORTED), frame(Frame.DONE)


def grade(
    values: list[Any], chunks: list[tuple[float, bytes]], *, fail_fast: bool = False, short: bool = True
) -> tuple[GroupVerdict, bytes]:
    group = spec(values)
    tests = CallTests(group, ExpectedStore(None).get(group), [1.0] * len(values))
    if not short:
        tests.leading = lambda index, sent: (0, 0)  # type: ignore[method-assign]
    grader, rest = GroupGrader(tests, fail_fast), b""
    for elapsed, data in chunks:
        rest += grader.feed(elapsed, data)
    return grader.verdict(killed=False), rest


@pytest.mark.parametrize("size", [1, 3, 7, 16, 1000])
def test_however_the_bytes_arrive(size: int) -> None:
    data = BEGUN + b"".join(map(value, VALUES)) + DONE
    chunks = [(0.0, data[i : i + size]) for i in range(0, len(data), size)]
    chunks[-1] = (0.0, chunks[-1][1] + b"next part")
    verdict, rest = grade(VALUES, chunks)
    assert verdict == GroupVerdict(Status.PASS, (True,) * 6, 6)
    assert rest == b"next part"


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.parametrize("wrong", range(len(VALUES)))
@pytest.mark.parametrize(
    "frames", [value(7), value([3, (4, 5)]), frame(Frame.RAISED, encode(("E", ""), 99)), frame(Frame.TIMEOUT), b"junk!"]
)
def test_a_wrong_answer_anywhere(wrong: int, frames: bytes, fail_fast: bool) -> None:
    sent = [value(v) for v in VALUES]
    sent[wrong] = frames
    chunks = [(0.0, BEGUN + b"".join(sent) + DONE)]
    answer = grade(VALUES, chunks, fail_fast=fail_fast)
    assert answer == grade(VALUES, chunks, fail_fast=fail_fast, short=False)
    assert answer[0].status is not Status.PASS
    assert answer[0].passed[:wrong] == (True,) * wrong


def test_a_right_answer_that_comes_too_late_fails() -> None:
    for chunks in (
        [(0.0, BEGUN), (1.6, b"".join(map(value, VALUES)) + DONE)],
        [(0.0, BEGUN + value(VALUES[0])[:-1]), (1.6, value(VALUES[0])[-1:] + b"".join(map(value, VALUES[1:])) + DONE)],
    ):
        verdict, _ = grade(VALUES, chunks)
        assert (verdict.status, verdict.passed) == (Status.FAIL, (False,) + (True,) * 5)
    assert grade(VALUES, [(9.0, BEGUN + b"".join(map(value, VALUES)) + DONE)])[0].status is Status.PASS, "its loading"


@pytest.mark.parametrize("short", [True, False])
def test_how_near_to_its_limit_a_test_came(short: bool) -> None:
    group = spec(VALUES)
    tests = CallTests(group, ExpectedStore(None).get(group), [1.0, 1.0, 4.0, 1.0, 1.0, 1.0])
    if not short:
        tests.leading = lambda index, sent: (0, 0)  # type: ignore[method-assign]
    grader = GroupGrader(tests, fail_fast=False)
    sent = [value(v) for v in VALUES]
    shares = []
    for elapsed, data in [
        (9.0, BEGUN),
        (0.2, sent[0] + sent[1]),
        (2.0, sent[2]),
        (0.3, sent[3] + frame(Frame.TIMEOUT)),
    ]:
        grader.feed(elapsed, data)
        shares.append(grader.nearest)
    assert shares == [0.0, 0.2, 0.5, 0.5], "the time before the first call is no test's"
    grader.feed(0.9, sent[5])
    assert grader.nearest == 0.9


def test_more_or_fewer_answers_than_tests() -> None:
    right = b"".join(map(value, VALUES))
    assert grade(VALUES, [(0.0, BEGUN + right + value(1) + DONE)])[0].status is Status.FAIL
    assert grade(VALUES, [(0.0, BEGUN + value(1) + DONE)])[0].status is Status.FAIL
    assert grade(VALUES, [(0.0, BEGUN + right)])[0].status is Status.TIMEOUT
    assert grade(VALUES, [(0.0, frame(Frame.IMPORTED) + right + DONE)])[0].status is Status.FAIL


def test_the_tolerance_sticks_after_a_float_that_passed_only() -> None:
    near = [value(0.5), value(1.0 + 1e-9), value([2.0 + 1e-9])]
    values = [0.5, 1.0, [2.0]]
    assert grade(values, [(0.0, BEGUN + b"".join(near) + DONE)])[0].passed == (True,) * 3
    values = [0.5, [{}, 2.0]]  # is_floats looks at the first item, so that only an earlier float helps
    close = value([{}, 2.0 + 1e-9])
    for sent in (value(0.5) + close, frame(Frame.TIMEOUT) + close):
        chunks = [(0.0, BEGUN + sent + DONE)]
        assert grade(values, chunks) == grade(values, chunks, short=False)


def test_only_what_bytes_can_decide_is_decided_by_them() -> None:
    def leading(values: list[Any], index: int = 0) -> tuple[Expected, int]:
        expected = ExpectedStore(None).get(spec(values))
        return expected, expected.leading(index, b"".join(map(value, values[index:])))[0]

    assert leading([1, 2, float("nan"), 3])[1] == 2
    assert leading([1, 2, float("nan"), 3], 2)[1] == 0
    assert leading([1, 2, float("nan"), 3], 3)[1] == 0
    assert leading([1, "x" * (BIG + 1), 3])[1] == 1
    assert leading(["x" * (BIG // 2)] * 3)[1] == 1, "not all is kept twice"
    assert leading([1, 2, 3], 1)[1] == 2
