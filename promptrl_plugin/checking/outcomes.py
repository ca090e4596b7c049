"""What a program did on generated inputs, as short texts that are equal where two programs did the same.

An outcome is ``=`` and a digest of the canonical form of the value returned, or how the call ended: ``raised
<type>``, ``timeout``, ``large``, ``crash``. As everywhere in the judge, values arrive as plain data; here nothing
says which are right.

Canonical forms are equal for values that Python holds equal (``1``, ``1.0`` and ``True``; a dictionary in any
order; a subclass and its base), and also for numbers that round to the same six significant digits (exact below
1e15 for what is whole) and for two NaN. A program's own object equals only those of the same program.
"""

from __future__ import annotations

import cmath
import datetime
import hashlib
import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from promptrl_plugin.checking.codec import CodecError, Opaque
from promptrl_plugin.checking.compare import bounded
from promptrl_plugin.checking.decoding import decode
from promptrl_plugin.checking.runner import Frame
from promptrl_plugin.records import FailureKind, GroupVerdict

__all__ = ["OUTCOMES_VERSION", "VIEWS", "ProbeTests", "canonical"]

OUTCOMES_VERSION = 1  #: raised whenever an outcome may change
#: What a visible test may put around a call: outputs are compared as seen through it.
VIEWS: dict[str, Callable[[Any], Any]] = {
    "set": set, "frozenset": frozenset, "sorted": sorted, "list": list, "tuple": tuple
}  # fmt: skip
_SECONDS = 10.0  # for one value; only one made to be slow needs more
_WHOLE = 1e-9  # relative distance from a whole number that is taken for rounding
_EXACT = 1e15  # floats above are whole by lack of digits


class ProbeTests:
    """Calls on generated inputs, as `grading.GroupGrader` needs them: every call passes, its outcome is noted.

    Args:
        program: The program, for outputs that are its own objects.
        limits: Seconds by call.
        view: See `probes.ProbeGroup.view`.

    Attributes:
        outcomes: Of the calls that ended so far.
    """

    uncounted = False

    def __init__(self, program: str, limits: list[float], view: str) -> None:
        self.limits = limits
        self.outcomes: list[str] = []
        self._salt = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
        self._view = VIEWS.get(view)

    def frames(self, index: int) -> int:
        return 1

    def leading(self, index: int, sent: bytearray) -> tuple[int, int]:
        return 0, 0

    def decide(self, index: int, claims: list[tuple[bytes, bytes, bool]]) -> tuple[bool, None, str]:
        kind, payload, late = claims[0]
        self.outcomes.append("timeout" if late else self._outcome(kind, payload))
        return True, None, ""

    def all_outcomes(self, verdict: GroupVerdict) -> tuple[str, ...]:
        """One outcome a call; `verdict` tells why the last ones are missing."""
        rest = "timeout" if verdict.failure is FailureKind.TIMEOUT else "crash"
        return (*self.outcomes, *[rest] * (len(self.limits) - len(self.outcomes)))

    def _outcome(self, kind: bytes, payload: bytes) -> str:
        if kind == Frame.TIMEOUT:
            return "timeout"
        if kind == Frame.LARGE:
            return "large"
        try:
            with bounded(_SECONDS):
                value = decode(payload)
                if kind == Frame.RAISED:
                    return f"raised {str(value[0])[:80]}"
                if self._view is not None:
                    value = self._view(value)
                text = canonical(value, self._salt)
        except CodecError:
            return "crash"
        except Exception as e:  # the view does not take it, or it is too slow or deep
            return f"raised {type(e).__name__}"
        return "=" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def canonical(value: Any, salt: str = "") -> str:
    """Text that two values share exactly if they count as the same output.

    Args:
        value: As `decoding.decode` returns it.
        salt: Tells the objects of one program from those of another.
    """

    def each(values: Iterable[Any]) -> list[str]:
        return [canonical(v, salt) for v in values]

    match value:
        case None:
            return "None"
        case Opaque():
            return f"<{value.type_name} {salt}>"
        case np.ndarray():
            return f"array{value.shape}[{','.join(each(value.ravel().tolist()))}]"
        case np.generic():
            item = value.item()
            return repr(value) if isinstance(item, np.generic) else canonical(item, salt)
        case int() | float() | complex() | Decimal() | Fraction():
            return _number(value)
        case str():
            return repr(str(value))
        case bytes() | bytearray():
            return repr(bytes(value))
        case list():
            return f"[{','.join(each(value))}]"
        case tuple():
            return f"({','.join(each(value))})"
        case dict():
            return f"{{{','.join(sorted(f'{k}:{v}' for k, v in zip(each(value), each(value.values()), strict=True)))}}}"
        case set() | frozenset():
            return f"set({','.join(sorted(set(each(value))))})"
        case range() | datetime.date() | datetime.time() | datetime.timedelta() | type():
            return repr(value)
    if isinstance(value, Iterable):  # what is left of the decoder's types: deque, dict_keys, dict_items
        items = each(value)
        unordered = type(value).__name__.startswith("dict_")
        return f"{type(value).__name__}({','.join(sorted(items) if unordered else items)})"
    return f"<{type(value).__name__} {salt}>"


def _number(value: Any) -> str:
    if isinstance(value, int):
        return hex(value)  # of any length, unlike repr
    if isinstance(value, complex):
        if value.imag and not cmath.isnan(value) and abs(value.imag) > _WHOLE * abs(value):
            return f"complex({_number(value.real)},{_number(value.imag)})"
        value = value.real
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a huge fraction, a signalling NaN
        return repr(value)
    if math.isnan(number) or math.isinf(number):
        return repr(number)
    if abs(number) < _EXACT and abs(number - round(number)) <= _WHOLE * max(1.0, abs(number)):
        return hex(round(number))
    return f"{number:.6g}"
