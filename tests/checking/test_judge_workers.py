"""Workers that die, hang or lose their judge; comparisons that would not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from promptrl_plugin.checking import deciding, pool
from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.checking.codec import encode
from promptrl_plugin.checking.deciding import AssertTests, CallTests
from promptrl_plugin.checking.expected import CallSpec, ExpectedStore, TooSlowError, in_fork
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.checking.programs import plan_assert
from promptrl_plugin.checking.runner import Frame
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.env.feedback import judge_hidden
from promptrl_plugin.errors import JudgeError
from promptrl_plugin.records import AssertGroup, FailureKind, Status, Task
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests

REFERENCE = "def f(x):\n    return x + 1\n"
GROUP = CallGroup("mbpp", "T/1", "f", REFERENCE, ([1], [2]), 0, "base")
SLOW = "import time\ndef f(x):\n    time.sleep(0.6)\n    return x + 1\n"


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedJudge]:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        judge.warm_up()
        assert _statuses(judge, REFERENCE) == [Status.PASS]  # expected outputs are known
        yield judge


def _statuses(judge: IsolatedJudge | CachingJudge, *programs: str) -> list[Status]:
    return [v.status for (v,) in judge.check([JudgeRequest(p, (GROUP,)) for p in programs]) if v is not None]


@contextmanager
def at_work(judge: IsolatedJudge, act: Callable[[int], None], times: int) -> Iterator[list[int]]:
    """Meanwhile, `act` on the process id of the worker that is at a request, on so many workers in turn."""
    hit: list[int] = []
    over = threading.Event()

    def run() -> None:
        while len(hit) < times and not over.wait(0.05):
            for worker in list(judge._workers):
                if worker.waiting and worker.ready and worker.process.pid not in hit:
                    time.sleep(0.2)
                    hit.append(worker.process.pid)
                    with suppress(ProcessLookupError):
                        act(worker.process.pid)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def test_a_program_whose_worker_died_is_judged_by_another(judge: IsolatedJudge) -> None:
    with at_work(judge, kill, times=1) as hit:
        assert _statuses(judge, SLOW, REFERENCE) == [Status.PASS, Status.PASS]
    assert len(hit) == 1


def test_a_program_whose_worker_died_twice_is_an_error_and_never_a_zero(judge: IsolatedJudge, tmp_path: Path) -> None:
    caching = CachingJudge(judge, Cache(tmp_path / "verdicts.sqlite"))
    with at_work(judge, kill, times=2) as hit:
        ((verdict,),) = caching.check([JudgeRequest(SLOW, (GROUP,))])
    assert verdict is not None
    assert (verdict.status, verdict.passed, verdict.total) == (Status.ERROR, (), 2)
    assert verdict.detail == "the judge's worker died twice"
    assert len(set(hit)) == 2
    assert _statuses(caching, SLOW) == [Status.PASS], "an error is not remembered, and the judge goes on"
    task = Task("T/1", "suite", "mbpp", "prompt", "f", AssertGroup(()))
    with at_work(judge, kill, times=2), pytest.raises(JudgeError, match=r"T/1.*died twice"):
        judge_hidden(judge, [(task, HiddenTests(GROUP, None, REFERENCE), SLOW)])


def test_a_worker_that_hangs_is_replaced(judge: IsolatedJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_GROUP_SECONDS", 6.0)
    monkeypatch.setattr(pool, "_REFERENCE_SECONDS", 0.0)
    with at_work(judge, stop, times=1) as hit:
        assert _statuses(judge, SLOW) == [Status.PASS]
    assert len(hit) == 1
    assert not psutil.pid_exists(hit[0])


def test_a_worker_whose_zygote_died_is_replaced(judge: IsolatedJudge) -> None:
    (middle,) = psutil.Process(judge._workers[0].process.pid).children()
    middle.kill()
    assert _statuses(judge, REFERENCE) == [Status.PASS]


ORPHANS = """
    import sys, threading
    from promptrl_plugin.checking.base import JudgeRequest
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.suites.hidden import CallGroup
    slow = "import time\\ndef f(x):\\n    time.sleep(600)\\n"
    quick = "def f(x): return x"
    reference, program = (slow, quick) if sys.argv[1] == "reference" else (quick, slow)
    group = CallGroup("mbpp", "T/1", "f", reference, tuple([i] for i in range(100)), 0, "base")
    judge = IsolatedJudge(JudgeConfig(workers=1, min_time_limit=50))
    judge.warm_up()
    threading.Timer(0.5, print, ["working"], {"flush": True}).start()
    judge.check([JudgeRequest(program, (group,))])
"""


def test_a_judge_leaves_no_process_for_init_to_reap(judge: IsolatedJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _statuses(judge, REFERENCE) == [Status.PASS]
    monkeypatch.setattr(pool, "_LEAVE_SECONDS", 60.0)
    monkeypatch.setattr(pool, "_END_SECONDS", 0.0)  # nothing is left to be killed
    group = judge._workers[0].process.pid
    judge.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


@pytest.mark.parametrize("at", ["reference", "program"])
def test_nothing_outlives_a_judge_that_was_killed(tmp_path: Path, at: str) -> None:
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PROMPTRL_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHANS), at], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    descendants = psutil.Process(process.pid).children(recursive=True)
    assert len(descendants) >= 3
    process.kill()
    process.communicate()
    _, left = psutil.wait_procs(descendants, timeout=30)
    assert not left
    assert list((tmp_path / "tmp").iterdir()) == []


# --- comparisons ---------------------------------------------------------------------------------

COLLIDING = [i * ((1 << 61) - 1) for i in range(60_000)]  # all of one hash: a set of them takes minutes


def _wrong_value(outcome: tuple[bool, FailureKind | None, str]) -> bool:
    return outcome[:2] == (False, FailureKind.WRONG_VALUE)


def test_a_value_that_is_slow_to_compare_fails_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "_APART_SECONDS", 1.0)
    reference = "def similar_elements(x):\n    return (1, 2)\n"
    spec = CallSpec("k", "mbpp", "similar_elements", reference, _pickled([[1], [2], [3]]), 3, 0)
    expected = ExpectedStore(None).get(spec)
    tests = CallTests(spec, expected, [1.0] * 3)
    payload = encode(COLLIDING, 1 << 22)
    for index in (0, 1):
        outcome = tests.decide(index, [(Frame.VALUE, payload, False)])
        assert _wrong_value(outcome)
        assert "too long to compare" in outcome[2]
    assert tests.decide(2, [(Frame.VALUE, encode([2, 1], 100), False)])[0], "small values are still compared"
    asserts = AssertTests([plan_assert("assert set(f(1)) == {1}")], [1.0])
    assert _wrong_value(asserts.decide(0, [(Frame.VALUE, payload, False)]))


def test_large_values_are_compared_as_small_ones_are() -> None:
    reference = "def f(n):\n    return [0.1] * n\n"
    spec = CallSpec("k", "mbpp", "f", reference, _pickled([[20_000], [20_000], [3]]), 3, 0)
    tests = CallTests(spec, ExpectedStore(None).get(spec), [1.0] * 3)

    def decide(index: int, value: Any) -> tuple[bool, FailureKind | None, str]:
        return tests.decide(index, [(Frame.VALUE, encode(value, 1 << 22), False)])

    assert decide(0, [0.1 + 1e-9] * 20_000)[0], "within the tolerance"
    wrong = decide(1, [0.1] * 19_999 + [0.2])
    assert _wrong_value(wrong)
    assert wrong[2].startswith("f(20000) returned [0.1, 0.1")
    assert decide(2, [0.1, 0.1 + 1e-9, 0.1])[0]
    plan = plan_assert("assert len(f(1)) == 20000")
    assert AssertTests([plan], [1.0]).decide(0, [(Frame.VALUE, encode([0.1] * 20_000, 1 << 22), False)])[0]


def test_a_fork_that_does_not_end_is_killed() -> None:
    start = time.monotonic()
    with pytest.raises(TooSlowError):
        in_fork(lambda: set(COLLIDING), 0.5)
    assert time.monotonic() - start < 30


def _pickled(inputs: list[Any]) -> bytes:
    import pickle

    return pickle.dumps(inputs)
