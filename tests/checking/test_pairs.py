"""Tests given as pairs of input and output, through the whole judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.checking.pairs import PairPlan
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import FailureKind, GroupVerdict, PairGroup, Status

SUMS = PairGroup("", ("1 2\n", "3 4\n", "10 -4\n"), ("3\n", "7\n", "6\n"))
CALLS = PairGroup("double", ("[[1, 2]]", "[[]]"), ("[[2, 4]]", "[[]]"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with what is expected, as a user's copy of APPS has it."""
    path = tmp_path_factory.mktemp("data") / "test.jsonl"
    path.write_text("3\n")
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[IsolatedJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PROMPTRL_APPS_PATH", str(data))
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            yield judge


def one(judge: IsolatedJudge, program: str, group: PairGroup = SUMS) -> GroupVerdict:
    ((verdict,),) = judge.check([JudgeRequest(program, (group,))])
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    "program",
    [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "import sys\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.buffer.readline().split())))",
        "print(sum(map(int, open(0).read().split())))",
        "import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())",
        "import os, sys\nn = os.fstat(sys.stdin.fileno()).st_size\nprint(sum(map(int, os.read(0, n).split())))",
        "for line in sys.stdin:\n    print(sum(map(int, line.split())))",  # the prelude's sys
        "print(np.sum(np.array(input().split(), dtype=int)))",
        "def main():\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()",
        "print(sum(map(int, input().split())))\nexit()\nprint(0)",
        "print(sum(map(int, input().split())))\nif True:\n    return\nprint(0)",
        "import sys\nprint(sum(map(int, input().split())), file=sys.stdout)\nsys.exit(0)",
        "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**27)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "def main(): print(sum(map(int, input().split())) + depth(20000) - 20000)\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
        "import io, os, sys\nsys.stdout = io.StringIO()\nprint(sum(map(int, input().split())))\n"
        "import atexit\natexit.register(lambda out=sys.stdout: os.write(1, out.getvalue().encode()))",
        "import sys\nprint(sum(map(int, input().split())))\nprint('debug', file=sys.stderr)",
        "len(str(10**5000))\nprint(sum(map(int, input().split())))",
    ],
)
def test_scripts_find_what_a_contest_gives_them(judge: IsolatedJudge, program: str) -> None:
    assert one(judge, program) == GroupVerdict(Status.PASS, (True,) * 3, 3)


@pytest.mark.parametrize(
    ("program", "passed", "failure", "detail"),
    [
        (
            "print(input().split()[0])",
            (False, False, False),
            FailureKind.WRONG_VALUE,
            r"on input '1 2\n' the script printed '1\n', expected '3\n'",
        ),
        ("print(7)", (False, True, False), FailureKind.WRONG_VALUE, None),
        ("print(3); 1 / 0", (False,) * 3, FailureKind.EXCEPTION, None),
        ("print(undefined)", (False,) * 3, FailureKind.NAME, None),
        ("print(3", (), FailureKind.SYNTAX, None),
        ("def f():\n    return 3\nyield 4", (), FailureKind.SYNTAX, None),
        (" \n", (), FailureKind.NO_CODE, "there is no program"),
        ("import os\nos.close(0)\nos.close(1)\nos._exit(0)", (), FailureKind.EXCEPTION, None),
    ],
)
def test_wrong_scripts(
    judge: IsolatedJudge, program: str, passed: tuple[bool, ...], failure: FailureKind, detail: str | None
) -> None:
    verdict = one(judge, program)
    assert verdict.status is not Status.PASS
    assert (verdict.passed, verdict.total, verdict.failure) == (passed, 3, failure)
    assert detail is None or verdict.detail == detail


def test_each_test_of_a_script_starts_anew(judge: IsolatedJudge) -> None:
    program = "try:\n    seen\n    print(0)\nexcept NameError:\n    seen = 1\n    print(sum(map(int, input().split())))"
    assert one(judge, program).status is Status.PASS
    closing = "import os\nprint(sum(map(int, open(0).read().split())), flush=True)\nos.close(1)"
    assert one(judge, closing).status is Status.PASS


def test_what_a_failed_test_leaves_is_gone_for_the_next(judge: IsolatedJudge) -> None:
    program = (
        "import atexit\na, b = map(int, input().split())\n"
        "if a < 4:\n    atexit.register(print, 'left')\n    raise ValueError\nprint(a + b)"
    )
    assert one(judge, program).passed == (False, False, True)
    many = PairGroup("", ("1 2\n",) * 300 + ("10 -4\n",), ("3\n",) * 300 + ("6\n",))
    assert one(judge, program, many).passed == (False,) * 300 + (True,)  # no open files are left, either


def test_files_that_a_run_leaves_open_do_not_close_those_of_the_next(judge: IsolatedJudge) -> None:
    """Cycles of a program's names are collected at any time; an open file among them would take its number along."""
    program = (
        "class Reader:\n    source = open(0)\n    def line(self): return Reader.source.readline()\n"
        "out = open(1, 'w')\nmore = [[i] for i in range(3000)]\nmore.append(more)\n"
        "out.write(str(sum(map(int, Reader().line().split()))))"
    )
    many = PairGroup("", ("1 2\n", "10 -4\n") * 40, ("3\n", "6\n") * 40)
    assert one(judge, program, many) == GroupVerdict(Status.PASS, (True,) * 80, 80)
    failing = "print('x' * 100)\n" + "a = [input()]\na.append(a)\nif '1 2' in a: 1 / 0\nprint('6')"
    assert one(judge, failing, PairGroup("", ("1 2", "3"), ("", "x" * 100 + "\n6"))).passed == (False, True)


def test_a_slow_test_is_one_failure(judge: IsolatedJudge) -> None:
    program = "a, b = map(int, input().split())\nwhile b == 4: pass\nprint(a + b)"
    verdict = one(judge, program)
    assert (verdict.passed, verdict.failure) == ((True, False, True), FailureKind.TIMEOUT)


@pytest.mark.parametrize(
    "program",
    [
        "def double(x):\n    return [v * 2 for v in x]",
        "def double(x):\n    return tuple(v * 2 for v in x)",
        "class Solution:\n    def double(self, x: List[int]) -> List[int]:\n        return [v * 2 for v in x]",
    ],
)
def test_functions_and_methods_of_solution(judge: IsolatedJudge, program: str) -> None:
    assert one(judge, program, CALLS) == GroupVerdict(Status.PASS, (True, True), 2)


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("def twice(x): return x", FailureKind.NAME),
        ("class Solution:\n    def twice(self, x): return x", FailureKind.NAME),
        ("x = 1 / 0", FailureKind.EXCEPTION),
        ("# nothing", FailureKind.NO_CODE),
        ("def double(x): return 5", FailureKind.WRONG_VALUE),
        (
            "class Liar(list):\n    def __eq__(self, other): return True\ndef double(x): return Liar([0])",
            FailureKind.WRONG_VALUE,
        ),
    ],
)
def test_wrong_functions(judge: IsolatedJudge, program: str, failure: FailureKind) -> None:
    verdict = one(judge, program, CALLS)
    assert verdict.status is Status.FAIL
    assert verdict.failure is failure


def test_the_data_is_out_of_reach(judge: IsolatedJudge, data: Path) -> None:
    if not any(active for name, active, _ in judge.layers() if name in ("Landlock", "read-only file system")):
        pytest.skip("this machine hides no files")
    verdict = one(judge, f"print(open({str(data)!r}).read())")
    assert verdict.passed == (False, False, False)


def test_the_child_holds_no_expected_output() -> None:
    group = PairGroup("", ("secret-input",), ("secret-output",))
    part = PairPlan(group).part("print(1)", [4.0], 5.0)
    shown = repr([getattr(part, name) for name in part.__slots__])
    assert "secret-input" in shown
    assert "secret-output" not in shown


def test_integers_of_any_length(judge: IsolatedJudge) -> None:
    many = "9" * 5000
    group = PairGroup("double", (f"[{many}]",), (f"[1{'9' * 4999}8]",))
    assert one(judge, "def double(x):\n    return 2 * x", group).status is Status.PASS
    assert group.asserts == ()
