"""A worker of the judge: the process that holds expected outputs and compares.

Started by `judge.IsolatedJudge` as a fresh interpreter without torch. It splits off a zygote (which runs
programs, see `zygote`) before it knows any expected output, and itself runs no foreign code.

From the judge, pickled: ``("group", key, CallSpec | AssertGroup)`` once a group, then
``("check", number, program, keys, fail_fast, stop_early)``. To it, JSON:
``[number, [[status, passed, total, failure, detail] or null, …]]``, and first ``["ready", layers]``.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from promptrl_plugin.checking import isolation
from promptrl_plugin.checking.expected import BrokenReferenceError, CallSpec, Expected, ExpectedStore
from promptrl_plugin.checking.grading import AssertTests, CallTests, GroupGrader, Tests
from promptrl_plugin.checking.original import original_verdict
from promptrl_plugin.checking.programs import plan_assert
from promptrl_plugin.checking.runner import Job
from promptrl_plugin.checking.zygote import LENGTH, MESSAGE, Message, ZygoteSettings, serve
from promptrl_plugin.records import AssertGroup, GroupVerdict, Status

__all__ = ["WorkerSettings", "main"]

_EVALPLUS_MAX_SECONDS = 60  # of a whole group (EVALPLUS_TIMEOUT_PER_TASK's default)
_MARGIN, _SET_MARGIN = 1 << 16, 1 << 22  # bytes of output always allowed; under the set oracle, with repetitions


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at its start; all times in seconds."""

    scratch: str
    expected_folder: str
    memory_bytes: int
    min_time_limit: float
    gt_time_limit_factor: float
    verdicts: str
    hidden: tuple[str, ...]
    without: tuple[str, ...] = ()


class _ZygoteDied(Exception):
    pass


class _Runner:
    """The comparer's end of the zygote."""

    def __init__(self, settings: WorkerSettings, judge_fd: int) -> None:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            try:
                ours.close()
                os.close(judge_fd)
                _start_zygote(theirs.fileno(), settings)
            finally:
                os._exit(0)
        theirs.close()
        self._socket = ours
        self._fd = ours.fileno()
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLIN)
        self._poller.register(judge_fd, 0)  # hang-up only: the judge is gone
        self._judge_fd = judge_fd
        self.layers: list[list[object]] = json.loads(self._receive()[2])

    def run(self, job: Job, grader: GroupGrader) -> GroupVerdict:
        """Run one job to its verdict.

        Raises:
            _ZygoteDied: The worker cannot go on.
        """
        data = pickle.dumps(job)
        self._send(LENGTH.pack(len(data)) + data)
        stopped = False
        while True:
            kind, elapsed, data = self._receive()
            if kind == Message.END:
                if not grader.ready:  # the child could not be isolated or forked: no verdict on the program
                    raise _ZygoteDied
                return grader.verdict(killed=data != Message.EXIT)
            if not grader.finished:
                grader.feed(elapsed, data)
            if grader.finished and not stopped:
                stopped = True
                self._send(LENGTH.pack(0))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            raise _ZygoteDied from None

    def _receive(self) -> tuple[bytes, float, bytes]:
        kind, elapsed, length = MESSAGE.unpack(self._read(MESSAGE.size))
        return kind, elapsed, self._read(length)

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            for fd, _ in self._poller.poll():
                if fd == self._judge_fd:
                    _leave()
            try:
                part = self._socket.recv(count)
            except OSError:
                part = b""
            if not part:
                raise _ZygoteDied
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _leave() -> None:
    # The zygote ends by itself when its socket closes.
    os._exit(0)


def _start_zygote(fd: int, settings: WorkerSettings) -> None:
    """Fork the zygote into its namespaces and wait for its end: only a child is in a new PID namespace."""
    layers = isolation.Layers()
    isolation.enter_namespaces(layers, settings.without)
    pid = os.fork()
    if pid == 0:
        try:
            serve(fd, _zygote_settings(settings), layers)
        finally:
            os._exit(0)
    os.close(fd)
    os.waitpid(pid, 0)


def _zygote_settings(s: WorkerSettings) -> ZygoteSettings:
    return ZygoteSettings(s.scratch, s.memory_bytes, s.hidden, s.without)


class _Worker:
    """Answers the judge's requests, one after another."""

    def __init__(self, settings: WorkerSettings, judge_fd: int) -> None:
        self._settings = settings
        self._runner = _Runner(settings, judge_fd)
        isolation.forbid_inspection()
        self._expected = ExpectedStore(Path(settings.expected_folder) if settings.expected_folder else None)
        self._groups: dict[str, CallSpec | AssertGroup] = {}

    def serve(self, connection: Connection) -> None:
        connection.send_bytes(json.dumps(["ready", self._runner.layers]).encode())
        while True:
            try:
                message = pickle.loads(connection.recv_bytes())
            except (EOFError, ConnectionError):
                return
            if message[0] == "group":
                self._groups[message[1]] = message[2]
                continue
            _, number, program, keys, fail_fast, stop_early = message
            answer = json.dumps([number, self._check(program, keys, fail_fast, stop_early)])
            connection.send_bytes(answer.encode())

    def _check(self, program: str, keys: list[str], fail_fast: bool, stop_early: bool) -> list[Any]:
        answers: list[Any] = []
        stopped = False
        for key in keys:
            if stopped:
                answers.append(None)
                continue
            verdict = self._group(program, self._groups[key], fail_fast)
            passed = "".join("01"[p] for p in verdict.passed)
            answers.append([verdict.status, passed, verdict.total, verdict.failure, verdict.detail])
            stopped = stop_early and verdict.status is not Status.PASS
        return answers

    def _group(self, program: str, group: CallSpec | AssertGroup, fail_fast: bool) -> GroupVerdict:
        if isinstance(group, AssertGroup):
            return self._assert_group(program, group, fail_fast)
        try:
            if self._settings.verdicts == "evalplus":
                return self._original(program, group, fail_fast)
            expected = self._expected.get(group)
            return self._call_group(program, group, expected, fail_fast)
        except BrokenReferenceError as e:
            return GroupVerdict(Status.ERROR, (), group.count, None, str(e))

    def _call_group(self, program: str, spec: CallSpec, expected: Expected, fail_fast: bool) -> GroupVerdict:
        s = self._settings
        limits = [max(s.min_time_limit, s.gt_time_limit_factor * t) for t in expected.seconds]
        tests = CallTests(spec, expected, limits)
        margin = _SET_MARGIN if tests.iterate else _MARGIN
        value_limit = _round_up(margin + 4 * max(expected.sizes, default=0))
        output_limit = value_limit + 8 * sum(expected.sizes) + _MARGIN * len(limits)
        job = Job(
            program=program,
            entry_point=spec.entry_point,
            calls=spec.inputs,
            limits=limits,
            total_limit=_total_limit(limits, fail_fast),
            value_limit=value_limit,
            output_limit=_round_up(output_limit),
            iterate=tests.iterate,
            fail_fast=fail_fast,
        )
        return self._run(job, tests, fail_fast)

    def _original(self, program: str, spec: CallSpec, fail_fast: bool) -> GroupVerdict:
        s = self._settings
        return original_verdict(spec, program, fail_fast, s.min_time_limit, s.gt_time_limit_factor, s.memory_bytes)

    def _assert_group(self, program: str, group: AssertGroup, fail_fast: bool) -> GroupVerdict:
        plans = [plan_assert(a) for a in group.asserts]
        limits = [self._settings.min_time_limit] * len(plans)
        units = [p.leaves if p.leaves is not None else p.source for p in plans]
        job = Job(
            program=program,
            entry_point="",
            calls=pickle.dumps(units),
            limits=limits,
            total_limit=_total_limit(limits, fail_fast),
            value_limit=_SET_MARGIN,
            output_limit=4 * _SET_MARGIN,
            setup=group.setup,
            fail_fast=fail_fast,
        )
        return self._run(job, AssertTests(plans, limits), fail_fast)

    def _run(self, job: Job, tests: Tests, fail_fast: bool) -> GroupVerdict:
        return self._runner.run(job, GroupGrader(tests, fail_fast))


def _total_limit(limits: list[float], fail_fast: bool) -> float:
    """How long EvalPlus waits for a group (`untrusted_check`): its timeout, and a second of its join."""
    return min(_EVALPLUS_MAX_SECONDS, sum(limits)) + (1 if fail_fast else 2) + 1


def _round_up(size: int) -> int:
    # To a power of two: the child should not learn the size of what is expected.
    return 1 << (size - 1).bit_length()


def main(fd: int) -> None:
    """Run a worker on the socket `fd`, until the judge closes it; entry point of the process."""
    sys.setrecursionlimit(10_000)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(fd)
    settings: WorkerSettings = pickle.loads(connection.recv_bytes())
    try:
        _Worker(settings, fd).serve(connection)
    except _ZygoteDied:
        os._exit(3)  # the judge starts another worker
