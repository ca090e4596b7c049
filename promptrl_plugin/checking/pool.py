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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from promptrl_plugin import config as _config
from promptrl_plugin.checking.base import JudgeRequest, TestGroup
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import AssertGroup, FailureKind, GroupVerdict, Status

__all__ = ["Round", "WorkerProcess"]

_AHEAD = 2  # requests at a worker: one being judged, one waiting
_ATTEMPTS = 2
_GROUP_SECONDS = 70.0  # that a group may take at most (`worker._total_limit`), with room
_REFERENCE_SECONDS = 960.0  # that computing expected outputs may take on top, once a group
_START_SECONDS = 60.0
_END_SECONDS = 5.0


class WorkerProcess:
    """One worker process and the requests that are at it."""

    def __init__(self, config: JudgeConfig, without_layers: tuple[str, ...]) -> None:
        self.scratch = tempfile.mkdtemp(prefix="promptrl-judge-")
        ours, theirs = socket.socketpair()
        code = "import sys; sys.path[:] = {!r}; from promptrl_plugin.checking.worker import main; main({})"
        # A fresh interpreter: nothing of ours is inherited, neither memory nor environment. The fixed hash
        # seed makes programs that depend on the order of a set reproducible.
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", code.format(_python_path(), theirs.fileno())],
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
        self.connection.close()
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
    from promptrl_plugin.checking.worker import WorkerSettings

    return WorkerSettings(
        scratch=scratch,
        expected_folder=str(_config.cache_dir() / "expected"),
        memory_bytes=config.memory_bytes,
        min_time_limit=config.min_time_limit,
        gt_time_limit_factor=config.gt_time_limit_factor,
        verdicts=config.verdicts,
        hidden=(str(_config.cache_dir()),),
        without=without_layers,
    )


@dataclass(slots=True)
class _Pending:
    """One request on its way."""

    request: JudgeRequest
    keys: list[str]
    attempts: int = 0


class Round:
    """One call of `check`: keeps every worker busy until all requests are answered."""

    def __init__(
        self,
        workers: list[WorkerProcess],
        requests: Sequence[JudgeRequest],
        key: Callable[[TestGroup], str],
        new_worker: Callable[[], WorkerProcess],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._workers = workers
        self._new_worker = new_worker
        self._on_progress = on_progress
        self._pending = [_Pending(r, [key(g) for g in r.groups]) for r in requests]
        self._queue = deque(range(len(requests)))
        self._answers: list[tuple[GroupVerdict | None, ...] | None] = [None] * len(requests)
        self._left = len(requests)

    def run(self) -> list[tuple[GroupVerdict | None, ...]]:
        for worker in self._workers:
            worker.waiting.clear()
        while self._left:
            for at, worker in enumerate(self._workers):
                self._feed(at, worker)
            deadline = min(map(self._deadline, self._workers))
            busy = {w.connection: at for at, w in enumerate(self._workers)}
            for connection in wait(list(busy), timeout=max(0.0, deadline - time.monotonic())):
                self._receive(busy[connection])  # type: ignore[index]
            for at, worker in enumerate(self._workers):
                if time.monotonic() > self._deadline(worker):
                    self._replace(at, "the judge's worker hung")
        return [a for a in self._answers if a is not None]

    def _deadline(self, worker: WorkerProcess) -> float:
        if not worker.waiting:
            return time.monotonic() + 3600
        groups = len(self._pending[worker.waiting[0]].keys)
        return worker.since + _START_SECONDS + groups * (_GROUP_SECONDS + _REFERENCE_SECONDS)

    def _feed(self, at: int, worker: WorkerProcess) -> None:
        while self._queue and len(worker.waiting) < _AHEAD:
            number = self._queue.popleft()
            if not worker.waiting:
                worker.since = time.monotonic()
            worker.waiting.append(number)
            pending = self._pending[number]
            try:
                for key, group in zip(pending.keys, pending.request.groups, strict=True):
                    if key not in worker.sent:
                        worker.sent.add(key)
                        worker.connection.send_bytes(pickle.dumps(("group", key, _spec(key, group))))
                r = pending.request
                message = ("check", number, r.program, pending.keys, r.fail_fast, r.stop_early)
                worker.connection.send_bytes(pickle.dumps(message))
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
        if answer is not None:
            number, verdicts = answer
            worker.waiting.remove(number)
            worker.since = time.monotonic()
            self._finish(number, tuple(map(_verdict, verdicts)))

    def _replace(self, at: int, why: str) -> None:
        """Start another worker; the request that the old one was at gets one more attempt."""
        worker = self._workers[at]
        worker.stop()
        for position, number in enumerate(worker.waiting):
            pending = self._pending[number]
            if position == 0:
                pending.attempts += 1
            if pending.attempts >= _ATTEMPTS:
                self._finish(number, tuple(_error(g, f"{why} twice") for g in pending.request.groups))
            else:
                self._queue.appendleft(number)
        self._workers[at] = self._new_worker()

    def _finish(self, number: int, verdicts: tuple[GroupVerdict | None, ...]) -> None:
        self._answers[number] = verdicts
        self._left -= 1
        if self._on_progress is not None:
            self._on_progress(number)


def _spec(key: str, group: TestGroup) -> Any:
    from promptrl_plugin.checking.expected import CallSpec

    if isinstance(group, AssertGroup):
        return group
    inputs = pickle.dumps(list(group.inputs))
    return CallSpec(key, group.dataset, group.entry_point, group.reference, inputs, len(group.inputs), group.atol)


def _error(group: TestGroup, why: str) -> GroupVerdict:
    total = len(group.asserts) if isinstance(group, AssertGroup) else len(group.inputs)
    return GroupVerdict(Status.ERROR, (), total, None, why)


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
