"""EvalPlus's comparison of outputs, on values that hold none of the program's code.

`CallComparison` repeats, test by test, what `evalplus.eval.unsafe_execute` (0.3.1) does after each call: its
special oracles, tolerance, type rule and the tolerance that sticks once a float was expected.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from evalplus.eval import is_floats
from evalplus.eval._special_oracle import (
    MBPP_OUTPUT_NOT_NONE_TASKS,
    MBPP_OUTPUT_SET_EQ_TASKS,
    _digit_distance_nums,
    _poly,
    _surface_Area,
)

__all__ = ["CallComparison", "bounded", "not_none_oracle", "set_oracle"]

_DEFAULT_ATOL = 1e-6  # what EvalPlus enforces once a float is expected
_RTOL = 1e-07
_COMPARE_SECONDS = 10.0  # for one comparison; only a value made to be slow to compare needs more


def set_oracle(dataset: str, entry_point: str) -> bool:
    """Whether outputs are compared as sets, so that any iterable is an answer."""
    return dataset == "mbpp" and entry_point in MBPP_OUTPUT_SET_EQ_TASKS


def not_none_oracle(dataset: str, entry_point: str) -> bool:
    """Whether only "is not None" is compared."""
    return dataset == "mbpp" and entry_point in MBPP_OUTPUT_NOT_NONE_TASKS


class CallComparison:
    """Compares the outputs of one group of calls, in order.

    Args:
        dataset: EvalPlus's data set, for the special oracles.
        entry_point: The function called; EvalPlus knows its oracles by this name.
        atol: The task's absolute tolerance.

    Attributes:
        uncounted: EvalPlus passes such a test without counting it (`find_zero`: its ``continue`` skips the
            count), so that HumanEval/32 never passes.
    """

    def __init__(self, dataset: str, entry_point: str, atol: float) -> None:
        self._entry_point = entry_point
        self._atol = atol
        self._mbpp = dataset == "mbpp"
        self.uncounted = dataset == "humaneval" and entry_point == "find_zero"
        self.special = self.uncounted or (
            self._mbpp
            and (
                entry_point in _ORACLES
                or entry_point in MBPP_OUTPUT_SET_EQ_TASKS
                or entry_point in MBPP_OUTPUT_NOT_NONE_TASKS
            )
        )

    def note_expected(self, floats: bool) -> None:
        """Record that a test was decided without `passes`; `floats` is `is_floats` of its expected value."""
        if self._atol == 0 and floats:
            self._atol = _DEFAULT_ATOL

    def passes(self, inputs: Any, expected: Any, out: Any) -> bool:
        """Whether EvalPlus accepts `out`; an exception in the comparison is a failure, as there."""
        try:
            with bounded(_COMPARE_SECONDS):
                return self._passes(inputs, expected, out)
        except Exception:
            return False

    def _passes(self, inputs: Any, expected: Any, out: Any) -> bool:
        exact = out == expected
        if self.uncounted:
            return bool(abs(_poly(*inputs, out)) <= self._atol)
        if self._mbpp:
            exact = self._oracle(exact, inputs, expected, out)
        if self._atol == 0 and is_floats(expected):
            self._atol = _DEFAULT_ATOL
        if exact or self._atol == 0:
            return bool(exact)
        if type(out) is not type(expected):
            return False
        if isinstance(expected, (list, tuple)) and len(out) != len(expected):
            return False
        return bool(np.allclose(out, expected, rtol=_RTOL, atol=self._atol))

    def _oracle(self, exact: Any, inputs: Any, expected: Any, out: Any) -> Any:
        name = self._entry_point
        if name in _ORACLES:
            return exact or _ORACLES[name](inputs, out, self._atol)
        if name in MBPP_OUTPUT_SET_EQ_TASKS:
            return set(out) == set(expected)
        if name in MBPP_OUTPUT_NOT_NONE_TASKS:
            return out == expected if isinstance(out, bool) else expected == (out is not None)
        return exact


_ORACLES: dict[str, Callable[[Any, Any, float], Any]] = {
    "are_equivalent": lambda inputs, out, atol: True,  # Mbpp/164
    "sum_div": lambda inputs, out, atol: out == 0,  # Mbpp/295
    "surface_Area": lambda inputs, out, atol: abs(out - _surface_Area(*inputs)) <= atol,  # Mbpp/581
    "digit_distance_nums": lambda inputs, out, atol: out == _digit_distance_nums(*inputs),  # Mbpp/558
}


class _TooSlow(Exception):
    pass


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise inside the block once it has run for `seconds`; main thread only."""

    def stop(signum: int, frame: Any) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
