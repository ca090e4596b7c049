"""The judge as a whole, on small programs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptrl_plugin.checking.base import JudgeRequest, TestGroup
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import AssertGroup, FailureKind, GroupVerdict, Status
from promptrl_plugin.suites.hidden import CallGroup

REFERENCE = "def double(x):\n    return [v * 2 for v in x]\n"
BASE = CallGroup("mbpp", "T/1", "double", REFERENCE, ([[1, 2]], [[]], [[3]]), 0, "base")
PLUS = CallGroup("mbpp", "T/1", "double", REFERENCE, tuple([[i, 2.5]] for i in range(30)), 0, "plus")
VISIBLE = AssertGroup(("assert double([1]) == [2]", "assert not double([])"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JUDGE_SECRET", "hunter2")
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            judge.warm_up()
            yield judge


def one(judge: IsolatedJudge, program: str, group: TestGroup = BASE, *, fail_fast: bool = False) -> GroupVerdict:
    ((verdict,),) = judge.check([JudgeRequest(program, (group,), fail_fast=fail_fast)])
    assert verdict is not None
    return verdict


def test_right_program(judge: IsolatedJudge) -> None:
    ((visible, base, plus),) = judge.check([JudgeRequest(REFERENCE, (VISIBLE, BASE, PLUS))])
    assert visible == GroupVerdict(Status.PASS, (True, True), 2)
    assert base == GroupVerdict(Status.PASS, (True,) * 3, 3)
    assert plus == GroupVerdict(Status.PASS, (True,) * 30, 30)


def test_every_outcome_and_the_first_failure(judge: IsolatedJudge) -> None:
    verdict = one(judge, "def double(x):\n    return [3] if x else 1 / 0")
    assert verdict.status is Status.FAIL
    assert verdict.passed == (False, False, False)
    assert verdict.failure is FailureKind.WRONG_VALUE
    assert verdict.detail == "double([1, 2]) returned [3], expected [2, 4]"
    assert one(judge, "def double(x): return [6]").passed == (False, False, True)


def test_fail_fast_stops_at_the_first_failure(judge: IsolatedJudge) -> None:
    wrong = "def double(x): return [v * 2 for v in x] if x else 7"
    assert one(judge, wrong).passed == (True, False, True)
    assert one(judge, wrong, fail_fast=True).passed == (True, False)


def test_stop_early_leaves_later_groups_out(judge: IsolatedJudge) -> None:
    answer = judge.check([JudgeRequest("def double(x): return 1", (VISIBLE, BASE, PLUS), stop_early=True)])
    assert [v and v.status for v in answer[0]] == [Status.FAIL, None, None]


@pytest.mark.parametrize(
    ("program", "failure", "detail"),
    [
        ("", FailureKind.NO_CODE, "there is no program"),
        ("def double(x) return", FailureKind.SYNTAX, "SyntaxError"),
        ("def other(x): return x", FailureKind.NAME, "'double' is not defined"),
        ("double = undefined", FailureKind.NAME, "NameError"),
        ("raise ValueError('no')\ndef double(x): return x", FailureKind.EXCEPTION, "ValueError: no"),
        ("import sys; sys.exit(0)", FailureKind.EXCEPTION, "SystemExit"),
        ("x = '\0'", FailureKind.SYNTAX, "null bytes"),
    ],
)
def test_programs_that_do_not_load(judge: IsolatedJudge, program: str, failure: FailureKind, detail: str) -> None:
    verdict = one(judge, program)
    assert (verdict.status, verdict.passed, verdict.total) == (Status.FAIL, (), 3)
    assert detail in verdict.detail
    assert verdict.failure is failure or detail == "null bytes"


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("raise KeyError('k')", FailureKind.EXCEPTION),
        ("return nope", FailureKind.NAME),
        ("raise SystemExit(0)", FailureKind.EXCEPTION),
        ("return double(x) + 1", FailureKind.EXCEPTION),
        ("return bytearray(1 << 40)", FailureKind.EXCEPTION),
        ("return input()", FailureKind.EXCEPTION),
        ("return 'x' * 10_000_000", FailureKind.WRONG_VALUE),
    ],
)
def test_calls_that_fail(judge: IsolatedJudge, body: str, failure: FailureKind) -> None:
    verdict = one(judge, f"def double(x):\n    {body}\n")
    assert (verdict.status, verdict.passed) == (Status.FAIL, (False,) * 3)
    assert verdict.failure is failure
    assert len(verdict.detail) <= 200


def test_an_endless_loop_costs_its_time_limit_and_no_more(judge: IsolatedJudge) -> None:
    start = time.monotonic()
    verdict = one(judge, "def double(x):\n    while len(x) == 2: pass\n    return [v * 2 for v in x]")
    assert verdict.passed == (False, True, True)
    assert (verdict.status, verdict.failure) == (Status.FAIL, FailureKind.TIMEOUT)
    assert time.monotonic() - start < 4


def test_a_crash_is_evalplus_timeout(judge: IsolatedJudge) -> None:
    verdict = one(judge, "import os\ndef double(x):\n    if not x: os._exit(0)\n    return [v * 2 for v in x]")
    assert (verdict.status, verdict.passed) == (Status.TIMEOUT, (True,))
    assert verdict.failure is FailureKind.EXCEPTION


def test_a_swallowed_timeout_does_not_buy_time(judge: IsolatedJudge) -> None:
    slow = (
        "import time\ndef double(x):\n    end = time.time() + 2.2\n    while len(x) == 2 and time.time() < end:\n"
        "        try: time.sleep(2)\n        except Exception: pass\n    return [v * 2 for v in x]"
    )
    verdict = one(judge, slow)
    assert verdict.passed == (False, True, True)
    assert verdict.failure is FailureKind.TIMEOUT


def test_groups_do_not_share_state(judge: IsolatedJudge) -> None:
    program = "n = []\ndef double(x):\n    n.append(1)\n    return [v * 2 for v in x] if len(n) <= 3 else None"
    first, second = judge.check([JudgeRequest(program, (BASE, BASE))])[0]
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (Status.PASS, Status.PASS)


def test_mutated_inputs_do_not_reach_the_comparison(judge: IsolatedJudge) -> None:
    group = CallGroup("humaneval", "T/2", "find_zero", "def find_zero(xs): return -0.5", ([[1, 2]],), 1e-4, "base")
    cheat = "def find_zero(xs):\n    xs[:] = [0, 0]\n    return 7.0"
    assert one(judge, cheat, group).passed == (False,)


CHEATS = [
    "class A:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "    def __bool__(self): return False\n    def __iter__(self): return iter(())\n    def __len__(self): return 0\n"
    "def double(x): return A()",
    "class A(list):\n    def __eq__(self, o): return True\ndef double(x): return A([9])",
    "import builtins\nbuiltins.all = builtins.any = builtins.bool = lambda *a: True\n"
    "import numpy\nnumpy.allclose = lambda *a, **k: True\ndef double(x): return [9]",
    # Everything the child can reach that looks like an answer, by frames and by the garbage collector.
    "import gc, sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n        for v in f.f_locals.values():\n"
    "            if type(v) in (list, tuple) and len(v) == 3 and v[0] == [2, 4]: return v[0]\n        f = f.f_back\n"
    "    for v in gc.get_objects():\n        if type(v) is list and v[:1] == [2, 4]: return v\n    return [9]",
    # Writes result frames of its own over the pipe, then ends.
    "import os\nframes = b'I\\0\\0\\0\\0' + b'V\\1\\0\\0\\0N' * 3 + b'D\\0\\0\\0\\0'\n"
    "for fd in range(3, 20):\n    try: os.write(fd, frames)\n"
    "    except OSError: pass\nos._exit(0)\n",
    "import sys\nsys.modules['promptrl_plugin.checking.codec'].encode = lambda *a: b'T'\n"
    "sys.modules['promptrl_plugin.checking.runner'].encode = lambda *a: b'T'\ndef double(x): return [9]",
]


@pytest.mark.parametrize("program", CHEATS, ids=["object", "list", "builtins", "search", "frames", "encoder"])
@pytest.mark.parametrize("group", [BASE, VISIBLE], ids=["calls", "asserts"])
def test_cheats_fail(judge: IsolatedJudge, program: str, group: TestGroup) -> None:
    verdict = one(judge, program, group)
    assert verdict.status in (Status.FAIL, Status.TIMEOUT)
    assert verdict.fraction < 1


def test_asserts(judge: IsolatedJudge) -> None:
    verdict = one(judge, "def double(x): return x", VISIBLE)
    assert (verdict.status, verdict.passed) == (Status.FAIL, (False, True))
    assert verdict.detail == "double([1]) returned [1], expected [2]"
    setup = AssertGroup(("assert f(k) == 3",), setup="k = Thing()")
    assert one(judge, "class Thing:\n    v = 3\ndef f(t): return t.v", setup).status is Status.PASS
    assert one(judge, "def f(t): return t.v", setup).status is Status.FAIL
    whole = AssertGroup(("x = f(1)\nassert x == 2",))
    assert one(judge, "def f(x): return x + 1", whole).status is Status.PASS
    assert one(judge, "def f(x): return x", whole).status is Status.FAIL


def test_no_asserts_pass_and_nothing_else(judge: IsolatedJudge) -> None:
    assert one(judge, "x = 1", AssertGroup(())).status is Status.PASS
    assert one(judge, "x = 1 +", AssertGroup(())).status is Status.FAIL


def test_a_broken_reference_is_an_error(judge: IsolatedJudge) -> None:
    group = CallGroup("mbpp", "T/3", "f", "def f(x): return 1 / x", ([1], [0]), 0, "base")
    verdict = one(judge, "def f(x): return 1", group)
    assert verdict.status is Status.ERROR
    assert "ZeroDivisionError" in verdict.detail
    assert one(judge, REFERENCE).status is Status.PASS


def _isolated(judge: IsolatedJudge) -> set[str]:
    return {name for name, active, _ in judge.layers() if active}


def test_a_program_reaches_nothing_outside(judge: IsolatedJudge, tmp_path: Path) -> None:
    """One program tries; what it reports is a list of what worked."""
    if not {"Landlock", "seccomp"} <= _isolated(judge):
        pytest.skip("this machine has no Landlock or no seccomp")
    (tmp_path / "precious").write_text("x")
    (tmp_path / "precious").chmod(0o600)
    server = socket.create_server(("127.0.0.1", 0))
    attempts = {
        "write": f"import posix; posix.open({str(tmp_path / 'new')!r}, 65)",
        "truncate": f"import posix; posix.open({str(tmp_path / 'precious')!r}, 513)",
        "read": f"import io; io.open({str(tmp_path / 'precious')!r}).read()",
        "chmod": f"import posix; posix.chmod({str(tmp_path / 'precious')!r}, 0o644)",
        "shm": "import posix; posix.open('/dev/shm/left-behind', 65)",
        "fork": "import posix\nif posix.fork() == 0: posix._exit(0)",
        "exec": "import posix; posix.execv('/bin/true', ['true'])",
        "spawn": "import posix; posix.posix_spawn('/bin/true', ['true'], {})",
        "connect": f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)",
        "unix": "import socket; socket.socket(socket.AF_UNIX)",
        "kill": "import posix; posix.kill(posix.getppid(), 0); assert posix.getppid()",
        "environ": "import io; io.open(f'/proc/{__import__(\"posix\").getppid()}/environ', 'rb').read()",
        "secret": "import os; os.environ['JUDGE_SECRET']",
        "message queue": "import ctypes; assert ctypes.CDLL(None).msgget(0x5150, 0o1666) >= 0",
        "ptrace": "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) >= 0",
        "memory": "import ctypes; assert ctypes.CDLL(None).mmap(0, 1 << 40, 3, 34, -1, 0) != -1",
    }
    program = f"attempts = {attempts!r}\n" + (
        "def double(x):\n    worked = []\n    for name, code in attempts.items():\n        try: exec(code, {})\n"
        "        except BaseException: continue\n        worked.append(name)\n    return worked\n"
    )
    group = CallGroup("mbpp", "T/4", "double", "def double(x): return []", ([1],), 0, "base")
    verdict = one(judge, program, group)
    assert verdict.status is Status.PASS, verdict.detail
    assert (tmp_path / "precious").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious"]


def test_useful_things_still_work(judge: IsolatedJudge) -> None:
    program = (
        "import asyncio, io, json, os\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "async def go(v): return v * 2\n"
        "def double(x):\n    with ThreadPoolExecutor(2) as pool: a = list(pool.map(lambda v: v * 2, x))\n"
        "    b = [asyncio.run(go(v)) for v in x]\n    with io.open('note', 'w') as f: f.write(json.dumps(a))\n"
        "    print(a)\n    return a if a == b else None\n"
    )
    assert one(judge, program).status is Status.PASS
    listing = CallGroup("mbpp", "T/5", "ls", "def ls(): return []", ([],), 0, "base")
    left = one(judge, "import os\ndef ls(): return os.listdir('.')", listing)
    assert left.status is Status.PASS, f"the scratch folder is not empty: {left.detail}"


@pytest.mark.parametrize("without", [("namespaces",), ("namespaces", "seccomp"), ("namespaces", "landlock")])
def test_each_layer_is_optional(without: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    with IsolatedJudge(JudgeConfig(workers=1), without_layers=without) as judge:
        assert one(judge, REFERENCE).status is Status.PASS
        report = {name: (active, why) for name, active, why in judge.layers()}
        assert report["network namespace"] == (False, "switched off")


def test_a_killed_worker_is_replaced_and_its_program_judged(judge: IsolatedJudge) -> None:
    one(judge, REFERENCE)
    os.kill(judge._workers[0].process.pid, signal.SIGKILL)
    assert one(judge, REFERENCE).status is Status.PASS


def test_order_progress_and_many_requests(judge: IsolatedJudge) -> None:
    seen: list[int] = []
    programs = [f"def double(x): return [v * {2 + i % 2} for v in x]" for i in range(20)]
    answers = judge.check([JudgeRequest(p, (BASE,)) for p in programs], seen.append)
    assert [v.status for (v,) in answers if v] == [Status.PASS, Status.FAIL] * 10
    assert sorted(seen) == list(range(20))


def test_expected_outputs_are_kept_and_a_torn_file_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    for _ in range(2):
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            assert one(judge, REFERENCE, PLUS).status is Status.PASS
        (file,) = (tmp_path / "expected").iterdir()
        assert file.stat().st_size < 4000
        file.write_bytes(file.read_bytes()[:-9])


def test_closing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    judge = IsolatedJudge(JudgeConfig(workers=1))
    judge.warm_up()
    pid, scratch = judge._workers[0].process.pid, Path(judge._workers[0].scratch)
    assert scratch.exists()
    judge.close()
    judge.close()
    assert not scratch.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_original_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    with IsolatedJudge(JudgeConfig(workers=1, verdicts="evalplus")) as judge:
        assert one(judge, REFERENCE).status is Status.PASS
        assert one(judge, "def double(x): return [6]").passed == (False, False, True)
        assert one(judge, CHEATS[0]).status is Status.PASS, "EvalPlus's own false pass"


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="strict, evalplus"):
        IsolatedJudge(JudgeConfig(verdicts="lenient"))
    with pytest.raises(ConfigError, match="time limits"):
        IsolatedJudge(JudgeConfig(min_time_limit=0))
    assert IsolatedJudge(JudgeConfig()).version != IsolatedJudge(JudgeConfig(min_time_limit=2)).version
