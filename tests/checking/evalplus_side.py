"""EvalPlus's own checker, for processes that hold nothing else."""

from __future__ import annotations

import pickle
from typing import Any

from evalplus.eval import untrusted_check
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.gen.util import trusted_exec

from promptrl_plugin.suites.hidden import CallGroup

__all__ = ["reference_times", "their_verdict", "their_verdict_on_the_reference"]


def reference_times(group: CallGroup) -> tuple[list[Any], list[float]]:
    """Expected outputs and seconds of the reference, by EvalPlus's rules."""
    expected, seconds = trusted_exec(
        group.reference, _copy(group), group.entry_point, record_time=True,
        output_not_none=group.entry_point in MBPP_OUTPUT_NOT_NONE_TASKS,
    )  # fmt: skip
    return expected, seconds


def their_verdict(group: CallGroup, program: str, expected: list[Any], seconds: list[float]) -> tuple[str, list[bool]]:
    """Status and outcome of every test."""
    status, details = untrusted_check(
        group.dataset, program, _copy(group), group.entry_point, expected, group.atol, seconds, fast_check=False
    )
    return status, [bool(d) for d in details]


def their_verdict_on_the_reference(group: CallGroup) -> tuple[str, list[bool]]:
    return their_verdict(group, group.reference, *reference_times(group))


def _copy(group: CallGroup) -> list[Any]:
    return pickle.loads(pickle.dumps(list(group.inputs)))
