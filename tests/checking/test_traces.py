"""Which programs may run two groups of tests in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.checking.traces import leaves_no_trace
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import FailureKind, GroupVerdict, Status
from promptrl_plugin.suites.hidden import CallGroup

BASE, PLUS = (
    CallGroup("mbpp", "T/1", "f", "def f(x):\n    return x\n", inputs, 0, kind)
    for inputs, kind in ((([1], [2]), "base"), (([3], [4], [5]), "plus"))
)


@pytest.mark.parametrize(
    "program",
    [
        "def f(x): return x",
        "import math, re\nfrom collections import Counter\nfrom typing import List\ndef f(x): return math.sqrt(x)",
        "class A:\n    def __init__(self): self.x = 1\ndef f(x): return A().x",
        "n = []\ndef f(x):\n    global m\n    m = n\n    n.append(x)\n    return x",
    ],
)
def test_plain_programs_leave_no_trace(program: str) -> None:
    assert leaves_no_trace(compile(program, "", "exec"))


@pytest.mark.parametrize(
    "program",
    [
        "import sys\ndef f(x): sys.setrecursionlimit(99)",
        "import math\ndef f(x): math.pi = 3",
        "import math\nclass A:\n    def f(self): del math.pi",
        "import os.path",
        "def f(x):\n    def g():\n        import random\n    return g",
        "def f(x): return eval('x')",
        "def f(x): setattr(f, 'n', 1)",
        "def f(x): return f.__globals__",
        "\n".join(f"a{i} = {i}" for i in range(300)) + "\nimport random",  # the name's number takes two bytes
    ],
)
def test_others_might(program: str) -> None:
    assert not leaves_no_trace(compile(program, "", "exec"))


@pytest.fixture(scope="module")
def judge() -> Iterator[IsolatedJudge]:
    with IsolatedJudge(JudgeConfig(workers=1)) as one:
        yield one


def verdicts(judge: IsolatedJudge, program: str, *, fail_fast: bool = False) -> tuple[GroupVerdict, GroupVerdict]:
    first, second = judge.check([JudgeRequest(program, (BASE, PLUS), fail_fast=fail_fast)])[0]
    assert first is not None
    assert second is not None
    return first, second


# Each passes a group only in a process that has run no other.
@pytest.mark.parametrize(
    ("before", "seen"),
    [
        ("n = []", "n.append(x) or len(n) <= 3"),
        ("import math", "setattr(math, 'n', getattr(math, 'n', 0) + 1) or math.n <= 3"),
        ("import random", "random.__dict__.setdefault('seen', []).append(x) or len(random.seen) <= 3"),
        ("import sys", "sys.modules.setdefault('n', []).append(x) or len(sys.modules['n']) <= 3"),
    ],
    ids=["names", "attribute", "module", "modules"],
)
def test_every_group_starts_afresh(judge: IsolatedJudge, before: str, seen: str) -> None:
    first, second = verdicts(judge, f"{before}\ndef f(x):\n    return x if {seen} else None\n")
    assert (first.passed, second.passed) == ((True, True), (True, True, True))


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.parametrize(
    ("when_two", "failure"),
    [
        ("return 0", FailureKind.WRONG_VALUE),
        ("1 / 0", FailureKind.EXCEPTION),
        ("f(x)", FailureKind.EXCEPTION),
        ("while True: pass", FailureKind.TIMEOUT),
        ("exit(1)", FailureKind.EXCEPTION),
        ("__import__('os')._exit(0)", FailureKind.EXCEPTION),
        ("return [0] * 10**10", FailureKind.EXCEPTION),
    ],
)
def test_a_failed_group_does_not_fail_the_next(
    judge: IsolatedJudge, when_two: str, failure: FailureKind, fail_fast: bool
) -> None:
    program = f"def f(x):\n    if x == 2:\n        {when_two}\n    return x\n"
    first, second = verdicts(judge, program, fail_fast=fail_fast)
    assert first.status is not Status.PASS
    assert first.failure is failure
    assert second.passed == (True, True, True)
    assert second.status is Status.PASS


@pytest.mark.parametrize("when_four", ["return 0", "1 / 0", "while True: pass", "return [0] * 10**10"])
def test_a_later_group_fails_alone(judge: IsolatedJudge, when_four: str) -> None:
    first, second = verdicts(judge, f"def f(x):\n    if x == 4:\n        {when_four}\n    return x\n")
    assert first.status is Status.PASS
    assert (second.status, second.passed) == (Status.FAIL, (True, False, True))


def test_what_does_not_load_fails_every_group(judge: IsolatedJudge) -> None:
    for program, failure in (("def f(x) return x", FailureKind.SYNTAX), ("g = 1 / 0", FailureKind.EXCEPTION)):
        assert [v.failure for v in verdicts(judge, program)] == [failure, failure]


def test_groups_that_share_compiled_code_share_no_value(judge: IsolatedJudge) -> None:
    program = "def f(x, seen=[]):\n    seen.append(x)\n    return x if len(seen) <= 3 else 0\n"
    assert [v.status for v in verdicts(judge, program)] == [Status.PASS, Status.PASS]


@pytest.mark.parametrize(
    "program",
    [
        "import random\ndef f(x): return random.random()",
        "from statistics import NormalDist as n\ndef f(x): return n().samples(1)",
    ],
)
def test_each_process_draws_its_own_random_numbers(judge: IsolatedJudge, program: str) -> None:
    first, second = (verdicts(judge, program)[0].detail for _ in range(2))
    assert first.startswith("f(1) returned")
    assert first != second


def test_annotations_are_evaluated_as_in_evalplus(judge: IsolatedJudge) -> None:
    first, _ = verdicts(judge, "def f(x: List[int]): return x")
    assert (first.status, first.failure) == (Status.FAIL, FailureKind.NAME)
