"""Hidden tests: what grades a submission, and on train tasks makes the reward.

Nothing that acts on test tasks may import this module (import-linter holds that in CI). Hidden tests
are reached through `Suite.hidden()` only, by the trainer for its train tasks, by `promptrl judge` and by
the harness adapters after a strategy has submitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from promptrl_plugin.records import AssertGroup, PairGroup, Task, content_hash

__all__ = ["CallGroup", "HiddenTests", "TrainTask"]


@dataclass(frozen=True, slots=True)
class CallGroup:
    """EvalPlus tests: call the entry point on inputs, compare with what the reference returns.

    Attributes:
        dataset: ``"mbpp"`` or ``"humaneval"``; decides EvalPlus's special oracles.
        task_id: EvalPlus's id; decides how inputs are (de)serialised.
        entry_point: Function to call.
        reference: Program that makes the expected outputs (EvalPlus: prompt + canonical solution).
        inputs: Argument lists, as EvalPlus's loaders return them (deserialised).
        atol: Absolute tolerance for floats, EvalPlus's field.
        kind: ``"base"`` or ``"plus"``.
    """

    dataset: str
    task_id: str
    entry_point: str
    reference: str
    inputs: tuple[Any, ...]
    atol: float
    kind: str

    @property
    def count(self) -> int:
        """Number of tests."""
        return len(self.inputs)

    @property
    def key(self) -> str:
        """Content hash; the test side of a verdict's cache key."""
        return content_hash(
            "call",
            self.dataset,
            self.task_id,
            self.entry_point,
            self.reference,
            repr(self.inputs),
            self.atol,
            self.kind,
        )


@dataclass(frozen=True, slots=True)
class HiddenTests:
    """All that grades one task.

    Attributes:
        base: EvalPlus base inputs, the original asserts, or APPS's pairs.
        plus: EvalPlus plus inputs; None where a suite has none (original MBPP, APPS).
        reference: A program known to be right (complete: prompt included where EvalPlus does so); ``""``: none.
    """

    base: CallGroup | AssertGroup | PairGroup
    plus: CallGroup | None
    reference: str

    @property
    def groups(self) -> tuple[CallGroup | AssertGroup | PairGroup, ...]:
        return (self.base,) if self.plus is None else (self.base, self.plus)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """A task that may train: the only type that carries a task together with its hidden tests."""

    task: Task
    hidden: HiddenTests
