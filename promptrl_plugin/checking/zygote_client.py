"""The comparer's end of the zygote: sends it jobs, and sorts what comes back by the parts of the job."""

from __future__ import annotations

import json
import pickle
import socket
import time
from collections.abc import Callable, Sequence

from promptrl_plugin.checking.expected import BrokenReferenceError
from promptrl_plugin.checking.grading import GroupGrader
from promptrl_plugin.checking.runner import Job
from promptrl_plugin.checking.zygote import LENGTH, MESSAGE, NEXT, STOP, Message
from promptrl_plugin.records import GroupVerdict

__all__ = ["Ends", "ZygoteClient", "ZygoteDiedError", "never"]

Ends = Callable[[GroupVerdict], bool]
"""Whether a part with that verdict is the last that is wanted."""


def never(verdict: GroupVerdict) -> bool:
    """All parts are wanted."""
    return False


class ZygoteDiedError(Exception):
    """The worker cannot go on."""


class ZygoteClient:
    """The zygote at the other end of a socket; waits until it is ready.

    Attributes:
        layers: Isolation layers, see `isolation.Layers.to_json`.
        stretch: Seconds that the last program's process lived for each second of CPU that it had.
        computed: Seconds of CPU that it had.

    Raises:
        ZygoteDiedError: It could not start.
    """

    def __init__(self, zygote: socket.socket) -> None:
        self._socket = zygote
        self.stretch, self.computed = 1.0, 0.0
        self.layers: list[list[object]] = json.loads(self._receive()[2])

    def run(self, job: Job, graders: Sequence[GroupGrader], ends: Ends = never) -> list[GroupVerdict]:
        """Run one job; verdicts on its first parts, at least on one.

        Those on the others need another child: this one has ended before, or in the middle of them.

        Args:
            job: What to run.
            graders: One a part.
            ends: Whether a part with that verdict is the last that is wanted.

        Raises:
            BrokenReferenceError: The reference failed when it had to be run again.
            ZygoteDiedError: The worker cannot go on.
        """
        data = pickle.dumps(job)
        self._send(LENGTH.pack(len(data)) + data)
        begin = time.monotonic()
        run = _Run(graders, ends)
        error: BrokenReferenceError | None = None
        stopped = False
        while True:
            kind, elapsed, data = self._receive()
            if kind == Message.END:
                break
            try:
                parts = 0 if stopped else run.feed(elapsed, data)
            except BrokenReferenceError as e:
                error, parts = e, 0
            for _ in range(parts):
                self._send(LENGTH.pack(len(NEXT)) + NEXT)
            if not stopped and (run.finished or error is not None):
                stopped = True
                self._send(LENGTH.pack(len(STOP)))
        self.stretch, self.computed = (time.monotonic() - begin) / max(elapsed, 1e-3), elapsed
        if error is not None:
            raise error
        if not graders[0].ready:  # the child could not be isolated or forked: no verdict on the program
            raise ZygoteDiedError
        return run.verdicts(killed=data != Message.EXIT)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            raise ZygoteDiedError from None

    def _receive(self) -> tuple[bytes, float, bytes]:
        kind, elapsed, length = MESSAGE.unpack(self._read(MESSAGE.size))
        return kind, elapsed, self._read(length)

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self._socket.recv(count)
            except OSError:
                part = b""
            if not part:
                raise ZygoteDiedError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class _Run:
    """One child's frames, part by part.

    Attributes:
        finished: Nothing more is needed from the child.
    """

    def __init__(self, graders: Sequence[GroupGrader], ends: Ends) -> None:
        self._graders = graders
        self._ends = ends
        self._at = 0
        self.finished = False

    def feed(self, elapsed: float, data: bytes) -> int:
        """Take bytes that arrived `elapsed` seconds after the previous ones; how many more parts have begun."""
        begun = 0
        while True:
            grader = self._graders[self._at]
            data = grader.feed(elapsed, data)
            # A part that has failed, but goes on, is not waited for: the next ones get a child of their own.
            self.finished = grader.finished and not (grader.ended and self._goes_on(grader))
            if self.finished or not grader.ended:
                return begun
            self._at += 1
            begun += 1
            elapsed = 0.0

    def _goes_on(self, grader: GroupGrader) -> bool:
        last = self._at + 1 == len(self._graders)
        return not (last or self._ends(grader.verdict(killed=False)))

    def verdicts(self, killed: bool) -> list[GroupVerdict]:
        """Verdicts on the parts that count, once the child is gone; see `GroupGrader.verdict`."""
        graders = self._graders[: self._at + 1]
        # How a child went down says nothing certain about a part for which it was not new.
        counted = graders if self._at == 0 or graders[-1].solid else graders[:-1]
        return [grader.verdict(killed) for grader in counted]
