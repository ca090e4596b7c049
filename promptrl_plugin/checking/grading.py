"""From the frames of one child to the verdict on one group of tests.

The comparer's side: a `GroupGrader` is fed what the child sent and how long it took, has every test decided by it
(`deciding`), and makes the verdict.
"""

from __future__ import annotations

from promptrl_plugin.checking.codec import CodecError
from promptrl_plugin.checking.deciding import NAME_ERRORS, Claim, Outcome, Tests
from promptrl_plugin.checking.decoding import decode
from promptrl_plugin.checking.describe import clip
from promptrl_plugin.checking.runner import HEADER, Frame
from promptrl_plugin.records import FailureKind, GroupVerdict, Status

__all__ = ["GroupGrader"]

#: A result may come so much later than its call's limit, on a loaded machine.
_LATE_SECONDS = 0.5
_BYTES_PER_SECOND = 20e6
_SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")

_BEGUN = HEADER.pack(Frame.READY, 0) + HEADER.pack(Frame.IMPORTED, 0)


class GroupGrader:
    """Collects frames and makes the verdict.

    Args:
        tests: The group's tests.
        fail_fast: Stop at the first failing test (EvalPlus's ``fast_check``).
        give_up_after: Stop at that many tests that took too long (0: never).

    Attributes:
        ready: The child was isolated and began with the program.
        finished: Nothing more is needed from the child.
        ended: The child has said that it is through with the group.
        nearest: The greatest share of its time limit that a test took.
    """

    def __init__(self, tests: Tests, fail_fast: bool, give_up_after: int = 0) -> None:
        self._tests = tests
        self._fail_fast, self._give_up_after, self._slow = fail_fast, give_up_after, 0
        self._buffer = bytearray()
        self._claims: list[Claim] = []
        self.ready = False
        self._imported = False
        self._broken: Outcome | None = None
        self._garbage = False
        self._done = False
        self._decided = 0
        self._failed = 0
        self.passed: list[bool] = []
        self.failure: FailureKind | None = None
        self.detail = ""
        self.finished = False
        self.ended = False
        self.nearest = 0.0

    @property
    def solid(self) -> bool:
        """Whether there is a verdict that does not rest on how the child went down."""
        return self.ended or (self.finished and not self._garbage)

    def feed(self, elapsed: float, data: bytes) -> bytes:
        """Take bytes that arrived `elapsed` seconds after the previous ones; returns those behind the group's."""
        buffer = self._buffer
        buffer += data
        at = self._take_right(elapsed)
        if at:
            elapsed = 0.0
        try:
            while not self.ended and len(buffer) - at >= HEADER.size:
                kind, length = HEADER.unpack_from(buffer, at)
                begin, end = at + HEADER.size, at + HEADER.size + length
                if end > len(buffer):
                    break
                at = end
                if not self.finished:
                    self._take(kind, bytes(buffer[begin:end]), elapsed)
                # The relay looks every few milliseconds, so whatever took longer comes first in its bytes.
                elapsed = 0.0
                self.ended = kind == Frame.DONE or self._broken is not None
        except CodecError:
            self._garbage = self.finished = True
        del buffer[:at]
        return bytes(buffer) if self.ended else b""

    def _take_right(self, elapsed: float) -> int:
        """Pass all tests at once whose right answers the buffer begins with, behind what precedes them; its bytes."""
        buffer, tests, start = self._buffer, self._tests, 0
        if not self.ready and buffer.startswith(_BEGUN):
            start = len(_BEGUN)
        elif not self._imported:
            return 0
        if self.finished or self._claims or self._decided == len(tests.limits):
            return 0
        if elapsed > tests.limits[self._decided] + _LATE_SECONDS:
            return 0
        count, size = tests.leading(self._decided, buffer[start:] if start else buffer)
        if not count:
            return 0
        if not start:
            self.nearest = max(self.nearest, elapsed / tests.limits[self._decided])
        self.ready = self._imported = True
        self._decided += count
        self.passed += [True] * count
        return start + size

    def _take(self, kind: bytes, payload: bytes, elapsed: float) -> None:
        if not self.ready:
            if kind != Frame.READY:
                raise CodecError("the child did not start")
            self.ready = True
        elif kind == Frame.BROKEN and not self._imported:
            self._broken = _broken(payload)
            self.finished = True
        elif kind == Frame.IMPORTED and not self._imported:
            self._imported = True
        elif not self._imported:
            raise CodecError("results before the program was loaded")
        elif kind == Frame.DONE:
            self._done = self.finished = True
        elif self._decided < len(self._tests.limits):
            limit = self._tests.limits[self._decided]
            self.nearest = max(self.nearest, elapsed / limit)
            late = elapsed > limit + _LATE_SECONDS + len(payload) / _BYTES_PER_SECOND
            self._claims.append((kind, payload, late))
            if len(self._claims) == self._tests.frames(self._decided):
                self._decide()
        else:
            raise CodecError("more results than tests")

    def _decide(self) -> None:
        index, claims = self._decided, self._claims
        self._decided, self._claims = index + 1, []
        passed, failure, detail = self._tests.decide(index, claims)
        if passed and self._tests.uncounted:
            return  # EvalPlus does not count it, see `CallComparison.uncounted`
        self.passed.append(passed)
        if passed:
            return
        if self.failure is None:
            self.failure, self.detail = failure, detail
        self._slow += failure is FailureKind.TIMEOUT
        if self._fail_fast or 0 < self._give_up_after <= self._slow:
            self.finished = True

    def verdict(self, killed: bool) -> GroupVerdict:
        """The verdict, once the child is gone.

        Args:
            killed: The child was killed for its time or the size of its output.
        """
        total = len(self._tests.limits)
        if self._broken is not None:
            _, failure, detail = self._broken
            return GroupVerdict(Status.FAIL, (), total, failure, detail)
        passed = tuple(self.passed)
        if self._done and len(passed) == total and all(passed):
            return GroupVerdict(Status.PASS, passed, total)
        crashed = not (self._done or self._garbage or (self._fail_fast and self.failure))
        if crashed:
            why = "no answer within the time limit" if killed else "the process ended in the middle"
            failure = FailureKind.TIMEOUT if killed else FailureKind.EXCEPTION
            return GroupVerdict(Status.TIMEOUT, passed, total, self.failure or failure, self.detail or why)
        detail = self.detail or "the program did not answer every test"
        return GroupVerdict(Status.FAIL, passed, total, self.failure or FailureKind.EXCEPTION, detail)


def _broken(payload: bytes) -> Outcome:
    try:
        name, message, empty = decode(payload)
        name, message = str(name), str(message)
    except (CodecError, TypeError, ValueError):
        return False, FailureKind.EXCEPTION, "the program does not load"
    if name == "KeyError" and empty is True:
        return False, FailureKind.NO_CODE, "there is no program"
    if name == "KeyError":
        return False, FailureKind.NAME, clip(f"{message} is not defined by the program")
    if name in _SYNTAX_ERRORS:
        failure = FailureKind.SYNTAX
    else:
        failure = FailureKind.NAME if name in NAME_ERRORS else FailureKind.EXCEPTION
    return False, failure, clip(f"{name}: {message}")
