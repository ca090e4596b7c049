"""The judge's worker processes, and the handing out of requests to them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from promptrl_plugin import config as _config
from promptrl_plugin.checking.base import JudgeRequest, ProbeRequest, TestGroup
from promptrl_plugin.checking.probes import ProbeGroup
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import AssertGroup, FailureKind, GroupVerdict, PairGroup, Status

__all__ = ["CheckQuestion", "ProbeQuestion", "Question", "Round", "WorkerProcess"]

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

_AHEAD = 2  # requests at a worker: one being judged, one waiting
_ATTEMPTS = 2
_GROUP_SECONDS = 330.0  # that a group may take at most (`worker._total_limit`, once plain, once stretched), with room
_REFERENCE_SECONDS = 960.0  # that computing expected outputs may take on top, once a group
_START_SECONDS = 60.0
_LEAVE_SECONDS, _END_SECONDS = 0.5, 5.0
#: The start-up hook of an installed promptrl may have imported that one, which need not be this one.
_CODE = (
    "import sys; sys.path[:] = {!r}; "
    "[sys.modules.pop(m) for m in [*sys.modules] if m.startswith('promptrl_plugin')]; "
    "from promptrl_plugin.checking.launch import main; main({})"
)
_DATA_VARIABLES = ("MBPP_OVERRIDE_PATH", "HUMANEVAL_OVERRIDE_PATH", "PROMPTRL_MBPP_PATH", "PROMPTRL_APPS_PATH")


class WorkerProcess:
    """One worker process and the requests that are at it."""

    def __init__(self, config: JudgeConfig, without_layers: tuple[str, ...]) -> None:
        self.scratch = tempfile.mkdtemp(prefix="promptrl-judge-")
        ours, theirs = socket.socketpair()
        # A fresh interpreter: nothing of ours is inherited, neither memory nor environment. The fixed hash
        # seed makes programs that depend on the order of a set reproducible.
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", _CODE.format(_python_path(), theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(self.scratch),
            start_new_session=True,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.sent: set[str] = set()
        self.waiting: deque[int] = deque()
        self.since = time.monotonic()
        self.layers: list[tuple[str, bool, str]] = []
        self.ready = False
        self.connection.send_bytes(pickle.dumps(_settings(config, self.scratch, without_layers)))

    def wait_ready(self) -> None:
        """Wait until it has started."""
        if not self.ready and self.connection.poll(_START_SECONDS):
            self.receive()

    def receive(self) -> tuple[int, list[Any]] | None:
        """The next answer; None for a message that is none.

        Raises:
            EOFError: The worker has died.
        """
        try:
            head, body = json.loads(self.connection.recv_bytes())
        except (OSError, ValueError):
            raise EOFError from None
        if head == "ready":
            self.ready, self.layers = True, body
            return None
        return head, body

    def stop(self) -> None:
        """End the worker with all its processes and remove its scratch folder."""
        self.connection.close()  # by which it ends, unless it hangs or is just starting
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_LEAVE_SECONDS)
        deadline = time.monotonic() + _END_SECONDS
        # Its own session, hence its own group; a program's processes go with the zygote.
        while time.monotonic() < deadline:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                break
            self.process.wait()
            time.sleep(0.001)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _python_path() -> list[str]:
    """`sys.path` for the worker, absolute: a relative entry would mean another folder there."""
    here = str(Path(__file__).resolve().parents[2])
    path = [str(Path(p).resolve()) for p in sys.path if p and Path(p).exists()]
    return path if here in path else [*path, here]


def _environment(scratch: str) -> dict[str, str]:
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PROMPTRL_NO_HOOK": "1",
    }


def _settings(config: JudgeConfig, scratch: str, without_layers: tuple[str, ...]) -> Any:
    from promptrl_plugin.checking.launch import WorkerSettings

    return WorkerSettings(
        scratch=scratch,
        expected_folder=str(_config.cache_dir() / "expected"),
        memory_bytes=config.memory_bytes,
        min_time_limit=config.min_time_limit,
        gt_time_limit_factor=config.gt_time_limit_factor,
        verdicts=config.verdicts,
        hidden=_hidden(),
        without=without_layers,
    )


def _hidden() -> tuple[str, ...]:
    """Files and folders with solutions or expected outputs, for layers that cannot hide all but what is needed."""
    evalplus = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalplus"  # its CACHE_DIR
    starter = Path(__file__).resolve().parents[1] / "suites" / "data"
    for folder in (_config.cache_dir(), evalplus):
        with suppress(OSError):  # what does not exist yet could not be hidden
            folder.mkdir(parents=True, exist_ok=True)
    hub = Path(os.environ.get("HF_HOME") or evalplus.with_name("huggingface"))  # the original MBPP, APPS
    overrides = (os.environ.get(name, "") for name in _DATA_VARIABLES)
    given = (str(Path(p).resolve()) for p in overrides if p)
    return (str(_config.cache_dir()), str(evalplus), str(starter), str(hub), *given)


class Question(Protocol[A_co]):
    """One request, as `Round` sends it to a worker and reads the answer."""

    @property
    def groups(self) -> tuple[TestGroup | ProbeGroup, ...]:
        """Tests or inputs that the worker has to know."""
        ...

    def message(self, number: int, keys: list[str]) -> tuple[Any, ...]: ...

    def answer(self, data: Any) -> A_co: ...

    def undecided(self, why: str) -> A_co:
        """The answer when no worker gave one."""
        ...


@dataclass(frozen=True, slots=True)
class CheckQuestion:
    """What are the verdicts on this program? For `Judge.check`."""

    request: JudgeRequest

    @property
    def groups(self) -> tuple[TestGroup, ...]:
        return self.request.groups

    def message(self, number: int, keys: list[str]) -> tuple[Any, ...]:
        r = self.request
        return ("check", number, r.program, keys, r.fail_fast, r.stop_early, r.stop_hung, r.give_up_after)

    def answer(self, data: Any) -> tuple[GroupVerdict | None, ...]:
        return tuple(map(_verdict, data))

    def undecided(self, why: str) -> tuple[GroupVerdict | None, ...]:
        return tuple(_error(g, why) for g in self.groups)


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """What does this program do on generated inputs? For `Judge.execute`."""

    request: ProbeRequest

    @property
    def groups(self) -> tuple[ProbeGroup, ...]:
        return (self.request.group,)

    def message(self, number: int, keys: list[str]) -> tuple[Any, ...]:
        return ("execute", number, self.request.program, keys[0])

    def answer(self, data: Any) -> tuple[str, ...] | None:
        return tuple(data)

    def undecided(self, why: str) -> tuple[str, ...] | None:
        return None


@dataclass(slots=True)
class _Pending(Generic[A]):
    """One request on its way."""

    question: Question[A]
    keys: list[str]
    attempts: int = 0


class Round(Generic[A]):
    """One call of `check` or `execute`: keeps every worker busy until all requests are answered."""

    def __init__(
        self,
        workers: list[WorkerProcess],
        questions: Sequence[Question[A]],
        key: Callable[[TestGroup | ProbeGroup], str],
        new_worker: Callable[[], WorkerProcess],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._workers = workers
        self._new_worker = new_worker
        self._on_progress = on_progress
        self._pending = [_Pending(q, [key(g) for g in q.groups]) for q in questions]
        self._queue = deque(range(len(questions)))
        self._answers: dict[int, A] = {}

    def run(self) -> list[A]:
        for worker in self._workers:
            worker.waiting.clear()
        while len(self._answers) < len(self._pending):
            for at, worker in enumerate(self._workers):
                self._feed(at, worker)
            deadline = min(map(self._deadline, self._workers))
            busy = {w.connection: at for at, w in enumerate(self._workers)}
            for connection in wait(list(busy), timeout=max(0.0, deadline - time.monotonic())):
                self._receive(busy[connection])  # type: ignore[index]
            for at, worker in enumerate(self._workers):
                if time.monotonic() > self._deadline(worker):
                    self._replace(at, "the judge's worker hung")
        return [self._answers[i] for i in range(len(self._pending))]

    def _deadline(self, worker: WorkerProcess) -> float:
        if not worker.waiting:
            return time.monotonic() + 3600
        groups = len(self._pending[worker.waiting[0]].keys)
        start = 0.0 if worker.ready else _START_SECONDS
        return worker.since + start + groups * (_GROUP_SECONDS + _REFERENCE_SECONDS)

    def _feed(self, at: int, worker: WorkerProcess) -> None:
        while self._queue and len(worker.waiting) < _AHEAD:
            number = self._queue.popleft()
            if not worker.waiting:
                worker.since = time.monotonic()
            worker.waiting.append(number)
            pending = self._pending[number]
            try:
                for key, group in zip(pending.keys, pending.question.groups, strict=True):
                    if key not in worker.sent:
                        worker.sent.add(key)
                        worker.connection.send_bytes(pickle.dumps(("group", key, _spec(key, group))))
                worker.connection.send_bytes(pickle.dumps(pending.question.message(number, pending.keys)))
            except OSError:
                self._replace(at, "the judge's worker died")
                return

    def _receive(self, at: int) -> None:
        worker = self._workers[at]
        try:
            answer = worker.receive()
        except EOFError:
            self._replace(at, "the judge's worker died")
            return
        worker.since = time.monotonic()
        if answer is not None:
            number, data = answer
            worker.waiting.remove(number)
            self._finish(number, self._pending[number].question.answer(data))

    def _replace(self, at: int, why: str) -> None:
        """Start another worker; the request that the old one was at gets one more attempt."""
        worker = self._workers[at]
        worker.stop()
        for position, number in enumerate(worker.waiting):
            pending = self._pending[number]
            if position == 0:
                pending.attempts += 1
            if pending.attempts >= _ATTEMPTS:
                self._finish(number, pending.question.undecided(f"{why} twice"))
            else:
                self._queue.appendleft(number)
        self._workers[at] = self._new_worker()

    def _finish(self, number: int, answer: A) -> None:
        self._answers[number] = answer
        if self._on_progress is not None:
            self._on_progress(number)


def _spec(key: str, group: TestGroup | ProbeGroup) -> Any:
    from promptrl_plugin.checking.expected import CallSpec

    if isinstance(group, AssertGroup | PairGroup | ProbeGroup):
        return group
    inputs = pickle.dumps(list(group.inputs))
    return CallSpec(key, group.dataset, group.entry_point, group.reference, inputs, len(group.inputs), group.atol)


def _error(group: TestGroup, why: str) -> GroupVerdict:
    return GroupVerdict(Status.ERROR, (), group.count, None, why)


def _verdict(data: list[Any] | None) -> GroupVerdict | None:
    if data is None:
        return None
    status, passed, total, failure, detail = data
    return GroupVerdict(
        status=Status(status),
        passed=tuple(p == "1" for p in passed),
        total=total,
        failure=FailureKind(failure) if failure is not None else None,
        detail=detail,
    )
