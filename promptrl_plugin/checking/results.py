"""Verdicts in EvalPlus's result format, and the scores made of them.

Format (evalplus 0.3.1, ``*_eval_results.json``): ``{"date", "hash", "eval": {task_id: [{"task_id", "solution",
"base_status", "plus_status", "base_fail_tests", "plus_fail_tests"}]}}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import JudgeError
from promptrl_plugin.records import AssertGroup, GroupVerdict, PairGroup, Status
from promptrl_plugin.storage.runs import write_atomic
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests

__all__ = ["JudgedSample", "Scores", "evalplus_results", "score", "write_results"]


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One submitted program and what its hidden tests say.

    Attributes:
        task_id: Id of the task.
        solution: The program.
        base: Verdict on the base tests.
        plus: Verdict on the plus tests; None where the suite has none.
    """

    task_id: str
    solution: str
    base: GroupVerdict
    plus: GroupVerdict | None = None

    @property
    def verdicts(self) -> tuple[GroupVerdict, ...]:
        return (self.base,) if self.plus is None else (self.base, self.plus)

    @property
    def solved(self) -> bool:
        """Whether every base and plus test passes."""
        return all(v.status is Status.PASS for v in self.verdicts)

    @property
    def fraction(self) -> float:
        """Share of base and plus tests that pass."""
        total = sum(v.total for v in self.verdicts)
        return sum(sum(v.passed) for v in self.verdicts) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in [0, 1]; a task with several samples counts with their mean.

    Attributes:
        tasks: Number of tasks.
        base: Strict pass@1 on base tests alone (EvalPlus's first table).
        strict: Strict pass@1 on base and plus tests (its second).
        soft_base: Mean share of base tests passed.
        soft: Mean share of base and plus tests passed; needs verdicts made without fail-fast.
    """

    tasks: int
    base: float
    strict: float
    soft_base: float
    soft: float


def score(samples: Sequence[JudgedSample]) -> Scores:
    """Strict and soft pass@1.

    Raises:
        JudgeError: A sample could not be judged; it must not count as a failure.
    """
    _refuse_errors(samples)
    by_task: dict[str, list[tuple[float, float, float, float]]] = {}
    for s in samples:
        row = (float(s.base.status is Status.PASS), float(s.solved), s.base.fraction, s.fraction)
        by_task.setdefault(s.task_id, []).append(row)
    means = [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in by_task.values()]
    count = len(means)
    base, strict, soft_base, soft = (sum(column) / count for column in zip(*means, strict=True)) if count else [0.0] * 4
    return Scores(count, base, strict, soft_base, soft)


def evalplus_results(
    samples: Sequence[JudgedSample],
    hidden: Mapping[str, HiddenTests],
    dataset_hash: str,
    *,
    test_details: bool = False,
) -> dict[str, Any]:
    """What `evalplus.evaluate` would have written for these samples.

    Args:
        samples: Judged samples, those of a task in the order of their completion.
        hidden: Hidden tests by task id.
        dataset_hash: EvalPlus's hash of the data set (`get_mbpp_plus_hash`), or the suite's version.
        test_details: List every failing test (`evalplus.evaluate --test-details`, for verdicts made
            without fail-fast) instead of the last one that ran.

    Raises:
        JudgeError: A sample could not be judged.
    """
    _refuse_errors(samples)
    rows: dict[str, list[dict[str, Any]]] = {}
    for s in samples:
        tests = hidden[s.task_id]
        row = {
            "task_id": s.task_id,
            "solution": s.solution,
            "base_status": str(s.base.status),
            "plus_status": str(s.plus.status) if s.plus is not None else None,
            "base_fail_tests": _fail_tests(s.base, tests.base, test_details),
            "plus_fail_tests": _fail_tests(s.plus, tests.plus, test_details) if s.plus and tests.plus else [],
        }
        rows.setdefault(s.task_id, []).append(row)
    return {"date": datetime.now().strftime("%Y-%m-%d %H:%M"), "hash": dataset_hash, "eval": rows}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write `evalplus_results` to a file, all or nothing."""
    write_atomic(path, json.dumps(results))


def _fail_tests(verdict: GroupVerdict, group: CallGroup | AssertGroup | PairGroup, test_details: bool) -> list[Any]:
    if verdict.status is Status.PASS or not verdict.passed:
        return []
    tests = list(group.asserts if isinstance(group, AssertGroup) else group.inputs)
    if test_details:
        failed = [tests[i] for i, passed in enumerate(verdict.passed) if not passed]
    else:
        failed = [tests[len(verdict.passed) - 1]]  # EvalPlus's rule: the last test that ran
    if isinstance(group, CallGroup) and group.dataset == "mbpp":
        from evalplus.data.mbpp import mbpp_serialize_inputs

        serialized: list[Any] = mbpp_serialize_inputs(group.task_id, failed)
        return serialized
    return failed


def _refuse_errors(samples: Sequence[JudgedSample]) -> None:
    errors = [(s, v) for s in samples for v in s.verdicts if v.status is Status.ERROR]
    if errors:
        sample, verdict = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise JudgeError(f"{sample.task_id} could not be judged: {verdict.detail}{more}; run it again")
