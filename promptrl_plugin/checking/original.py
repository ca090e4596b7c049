"""EvalPlus's own checker, unchanged, for ``verdicts = "evalplus"``: its verdicts with its known errors.

It trusts the program: expected outputs are in the program's process, and nothing but EvalPlus's own guard
isolates it. All that differs from `evalplus.evaluate` is that the parent is a small process.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

from promptrl_plugin.checking.compare import not_none_oracle
from promptrl_plugin.checking.expected import CallSpec, in_fork
from promptrl_plugin.records import FailureKind, GroupVerdict, Status

__all__ = ["original_verdict"]

_SECONDS = 900


def original_verdict(
    spec: CallSpec, program: str, fail_fast: bool, min_time_limit: float, time_limit_factor: float, memory_bytes: int
) -> GroupVerdict:
    """What `evalplus.eval.untrusted_check` says.

    Raises:
        BrokenReferenceError: The reference fails on its own inputs.
    """

    def check() -> tuple[str, list[bool]]:
        from evalplus.eval import untrusted_check
        from evalplus.gen.util import trusted_exec

        os.environ["EVALPLUS_MAX_MEMORY_BYTES"] = str(memory_bytes)
        inputs: list[Any] = pickle.loads(spec.inputs)
        expected, seconds = trusted_exec(
            spec.reference,
            inputs,
            spec.entry_point,
            record_time=True,
            output_not_none=not_none_oracle(spec.dataset, spec.entry_point),
        )
        status, details = untrusted_check(
            spec.dataset,
            program,
            inputs,
            spec.entry_point,
            expected,
            spec.atol,
            seconds,
            fast_check=fail_fast,
            min_time_limit=min_time_limit,
            gt_time_limit_factor=time_limit_factor,
        )
        return status, [bool(passed) for passed in details]

    status, passed = in_fork(check, _SECONDS)
    if status == Status.PASS:
        return GroupVerdict(Status.PASS, tuple(passed), spec.count)
    # EvalPlus does not say why.
    failure = FailureKind.TIMEOUT if status == Status.TIMEOUT else FailureKind.WRONG_VALUE
    return GroupVerdict(Status(status), tuple(passed), spec.count, failure, f"EvalPlus: {status}")
