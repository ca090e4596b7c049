"""Tests given as pairs of input and output: the part of a job that runs them, and what decides them."""

from __future__ import annotations

import pickle
import re
from typing import Any

from promptrl_plugin.checking.apps_rules import arguments, expected_value, same_output, same_value
from promptrl_plugin.checking.compare import bounded
from promptrl_plugin.checking.deciding import COMPARE_SECONDS, INLINE_BYTES, Apart, Claim, Outcome, no_value
from promptrl_plugin.checking.decoding import decode
from promptrl_plugin.checking.describe import call_text, clip, value_text
from promptrl_plugin.checking.runner import Frame, Part
from promptrl_plugin.checking.scripts import PRELUDE
from promptrl_plugin.groups import PairGroup, read_json
from promptrl_plugin.records import FailureKind

__all__ = ["PAIR_SECONDS", "PairPlan", "PairTests"]

PAIR_SECONDS = 4.0  #: that a test may take, APPS's ``timeout``
_USES_NUMPY = re.compile(r"\bnp\b")
_MARGIN = 1 << 20  # bytes of output always allowed


class PairPlan:
    """What a `PairGroup` comes to in the worker: read once, used for every program.

    Args:
        group: The group.
    """

    def __init__(self, group: PairGroup) -> None:
        self.group = group
        self.inputs: list[list[Any]] = (
            [arguments(read_json(text)) for text in group.inputs] if group.function else [[t] for t in group.inputs]
        )
        self.outputs: list[Any] = (
            [expected_value(read_json(text)) for text in group.outputs] if group.function else list(group.outputs)
        )
        self._calls = pickle.dumps(self.inputs)

    def part(self, program: str, limits: list[float], total_limit: float) -> Part:
        """The child's share for one program; nothing in it tells what is right.

        Args:
            program: Decides whether numpy is there under its usual name.
            limits: Seconds by test.
            total_limit: Seconds for all.
        """
        sizes = [len(text) for text in self.group.outputs]
        value_limit = _rounded_up(_MARGIN + 4 * max(sizes, default=0))
        return Part(
            entry_point=self.group.function,
            calls=self._calls,
            limits=limits,
            total_limit=total_limit,
            value_limit=value_limit,
            output_limit=_rounded_up(value_limit + 8 * sum(sizes) + len(sizes) * (_MARGIN >> 4)),
            setup=PRELUDE + ("import numpy as np\n" if _USES_NUMPY.search(program) else ""),
            pairs=True,
        )


class PairTests:
    """The tests of one group, as `grading.GroupGrader` needs them."""

    uncounted = False

    def __init__(self, plan: PairPlan, limits: list[float]) -> None:
        self.limits = limits
        self._plan = plan
        self._apart = Apart()

    def frames(self, index: int) -> int:
        return 1

    def leading(self, index: int, sent: bytearray) -> tuple[int, int]:
        return 0, 0

    def decide(self, index: int, claims: list[Claim]) -> Outcome:
        kind, payload, late = claims[0]
        if kind != Frame.VALUE or late:
            return no_value(Frame.TIMEOUT if late else kind, payload, self._call(index))
        if len(payload) > INLINE_BYTES:
            return self._apart.run(lambda: self._compare(index, payload))
        return self._compare(index, payload)

    def _compare(self, index: int, payload: bytes) -> Outcome:
        wanted = self._plan.outputs[index]
        value: Any = None
        try:
            with bounded(COMPARE_SECONDS):
                value = decode(payload)
                if self._same(value, wanted):
                    return True, None, ""
        except Exception as e:
            return False, FailureKind.WRONG_VALUE, clip(f"{self._call(index)}: not comparable ({type(e).__name__})")
        return False, FailureKind.WRONG_VALUE, self._wrong(index, value, wanted)

    def _same(self, value: Any, wanted: Any) -> bool:
        if self._plan.group.function:
            return same_value(value, wanted)
        return isinstance(value, str) and same_output(value, wanted)

    def _call(self, index: int) -> str:
        if self._plan.group.function:
            return call_text(self._plan.group.function, self._plan.inputs[index])
        return f"on input {value_text(self._plan.group.inputs[index])} the script"

    def _wrong(self, index: int, value: Any, wanted: Any) -> str:
        if self._plan.group.function:
            shown = wanted[0] if isinstance(wanted, list) and len(wanted) == 1 else wanted
            return clip(f"{self._call(index)} returned {value_text(value)}, expected {value_text(shown)}")
        return clip(f"{self._call(index)} printed {value_text(value)}, expected {value_text(wanted)}")


def _rounded_up(size: int) -> int:
    # To a power of two: the child should not learn the size of what is expected.
    return 1 << (size - 1).bit_length()
