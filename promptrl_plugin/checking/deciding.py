"""Decides single tests: from the frames of one test to whether it passed, and a line on why not.

Every frame is taken for a mere claim; only values that equal what is expected, in time, count.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, Protocol

from promptrl_plugin.checking.codec import CodecError
from promptrl_plugin.checking.compare import CallComparison, bounded
from promptrl_plugin.checking.decoding import decode
from promptrl_plugin.checking.describe import call_text, clip, value_text
from promptrl_plugin.checking.expected import CallSpec, Expected, Output, TooSlowError, in_fork, passes_again
from promptrl_plugin.checking.programs import AssertPlan, LeafError
from promptrl_plugin.checking.runner import Frame
from promptrl_plugin.records import FailureKind

__all__ = [
    "COMPARE_SECONDS",
    "INLINE_BYTES",
    "NAME_ERRORS",
    "Apart",
    "AssertTests",
    "CallTests",
    "Claim",
    "Outcome",
    "Tests",
    "no_value",
]

COMPARE_SECONDS = 10.0
#: Larger answers that are not the expected one are looked at in a process of their own: Python's own code may
#: take hours for them (a set of colliding hashes, say), and no signal stops it there.
INLINE_BYTES = 1 << 16
_APART_SECONDS = 20.0  # for a group
NAME_ERRORS = ("NameError", "UnboundLocalError")

Claim = tuple[bytes, bytes, bool]  #: kind of frame, payload, whether it came too late
Outcome = tuple[bool, FailureKind | None, str]  #: passed, why not, and a line about it


class Tests(Protocol):
    """The tests of one group, as the grader needs them."""

    limits: list[float]
    uncounted: bool

    def frames(self, index: int) -> int:
        """How many result frames test `index` has."""
        ...

    def decide(self, index: int, claims: list[Claim]) -> Outcome:
        """Outcome of test `index`; called once a test, in order."""
        ...

    def leading(self, index: int, sent: bytearray) -> tuple[int, int]:
        """How many tests from `index` on pass for certain by the frames in `sent`, and their bytes; not to be
        decided again.
        """
        ...


def no_value(kind: bytes, payload: bytes, what: str) -> Outcome:
    """Outcome of a frame that is no value."""
    if kind == Frame.TIMEOUT:
        return False, FailureKind.TIMEOUT, clip(f"{what} took too long")
    if kind == Frame.LARGE:
        return False, FailureKind.WRONG_VALUE, clip(f"{what} returned a value far larger than expected")
    if kind != Frame.RAISED:
        return False, FailureKind.EXCEPTION, clip(f"{what} gave no result")
    try:
        name, message = decode(payload)
    except (CodecError, TypeError, ValueError):
        name, message = "an exception", ""
    failure = FailureKind.NAME if name in NAME_ERRORS else FailureKind.EXCEPTION
    return False, failure, clip(f"{what} raised {name}: {message}")


class CallTests:
    """Calls of one function, compared with the reference's outputs.

    Args:
        spec: The group.
        expected: Its expected outputs.
        limits: Seconds by call.
    """

    def __init__(self, spec: CallSpec, expected: Expected, limits: list[float]) -> None:
        self.limits = limits
        self._spec = spec
        self._expected = expected
        self._comparison = CallComparison(spec.dataset, spec.entry_point, spec.atol)
        self.uncounted = self._comparison.uncounted
        self._inputs: Any = None
        self._told = False
        self._apart = Apart()

    def frames(self, index: int) -> int:
        return 1

    def leading(self, index: int, sent: bytearray) -> tuple[int, int]:
        if self._comparison.special:
            return 0, 0
        count, size = self._expected.leading(index, sent)
        self._comparison.note_expected(any(o.floats for o in self._expected.outputs[index : index + count]))
        return count, size

    def decide(self, index: int, claims: list[Claim]) -> Outcome:
        kind, payload, late = claims[0]
        wanted = self._expected.outputs[index]
        if kind != Frame.VALUE or late:
            return no_value(Frame.TIMEOUT if late else kind, payload, self._call(index))
        if not self._comparison.special and wanted.same(payload):
            self._comparison.note_expected(wanted.floats)
            return True, None, ""
        if len(payload) <= INLINE_BYTES or wanted.data is None:
            return self._compare(index, wanted, payload)
        outcome = self._apart.run(lambda: self._compare(index, wanted, payload))
        self._comparison.note_expected(wanted.floats)
        self._told |= not outcome[0]
        return outcome

    def _compare(self, index: int, wanted: Output, payload: bytes) -> Outcome:
        try:
            with bounded(COMPARE_SECONDS):
                out = decode(payload)
        except Exception as e:
            return False, FailureKind.WRONG_VALUE, clip(f"{self._call(index)} returned an unreadable value ({e})")
        if self._passes(index, wanted, out):
            return True, None, ""
        return False, FailureKind.WRONG_VALUE, self._wrong(index, wanted, out)

    def _passes(self, index: int, wanted: Output, out: Any) -> bool:
        if wanted.data is not None:
            return self._comparison.passes(self._args(index), decode(wanted.data), out)
        passed = passes_again(self._spec, index, out, self._comparison)
        self._comparison.note_expected(wanted.floats)
        return passed

    def _args(self, index: int) -> Any:
        if self._inputs is None:
            self._inputs = pickle.loads(self._spec.inputs)
        return self._inputs[index]

    def _call(self, index: int) -> str:
        return call_text(self._spec.entry_point, self._args(index))

    def _wrong(self, index: int, wanted: Output, out: Any) -> str:
        if self._told:  # only the first failure is read by anyone
            return ""
        self._told = True
        expected = value_text(decode(wanted.data)) if wanted.data is not None else "another value"
        return clip(f"{self._call(index)} returned {value_text(out)}, expected {expected}")


class AssertTests:
    """Assert statements, split by `programs.plan_assert`."""

    uncounted = False

    def __init__(self, plans: list[AssertPlan], limits: list[float]) -> None:
        self.limits = limits
        self._plans = plans
        self._apart = Apart()

    def frames(self, index: int) -> int:
        leaves = self._plans[index].leaves
        return 1 if leaves is None else len(leaves)

    def leading(self, index: int, sent: bytearray) -> tuple[int, int]:
        return 0, 0

    def decide(self, index: int, claims: list[Claim]) -> Outcome:
        plan = self._plans[index]
        if plan.leaves is None:
            kind, payload, late = claims[0]
            if kind == Frame.HELD and not late:
                return True, None, ""
            return no_value(Frame.TIMEOUT if late else kind, payload, plan.source)
        if sum(len(payload) for _, payload, _ in claims) > INLINE_BYTES:
            return self._apart.run(lambda: self._compare(plan, plan.leaves or (), claims))
        return self._compare(plan, plan.leaves, claims)

    def _compare(self, plan: AssertPlan, leaves: tuple[str, ...], claims: list[Claim]) -> Outcome:
        values: list[Any] = []
        problem: Outcome | None = None
        for (kind, payload, late), leaf in zip(claims, leaves, strict=True):
            if kind == Frame.VALUE and not late:
                values.append(_decoded(payload))
                continue
            problem = problem or no_value(Frame.TIMEOUT if late else kind, payload, leaf)
            values.append(LeafError(leaf))
        return self._judge(plan, values, problem)

    def _judge(self, plan: AssertPlan, values: list[Any], problem: Outcome | None) -> Outcome:
        error = ""
        try:
            with bounded(COMPARE_SECONDS):
                if plan.holds(values):
                    return True, None, ""
        except LeafError:
            if problem is not None:
                return problem
        except Exception as e:
            error = f" ({type(e).__name__}: {e})"
        assert plan.leaves is not None
        got = ", ".join(f"{leaf} returned {value_text(v)}" for leaf, v in zip(plan.leaves, values, strict=True))
        try:
            text = f"{got}, expected {value_text(plan.wanted())}"
        except Exception:
            text = f"{plan.source}: {got}{error}"
        return False, FailureKind.WRONG_VALUE, clip(text)


class Apart:
    """Comparisons in processes of their own, with a limit on the time that they take together."""

    def __init__(self) -> None:
        self._left = _APART_SECONDS

    def run(self, compare: Callable[[], Outcome]) -> Outcome:
        start = time.monotonic()
        try:
            outcome: Outcome = in_fork(compare, max(self._left, 0.001))
        except TooSlowError:
            outcome = False, FailureKind.WRONG_VALUE, "the returned value takes too long to compare"
        self._left -= time.monotonic() - start
        return outcome


def _decoded(payload: bytes) -> Any:
    try:
        with bounded(COMPARE_SECONDS):
            return decode(payload)
    except Exception:
        return LeafError("unreadable value")
