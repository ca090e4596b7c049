"""The one interface to a prompting strategy."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.config import EnvConfig
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.records import Effect, Feedback, Sample, Task

__all__ = ["Solve", "Strategy", "StrategyContext"]

Solve = Generator[Effect, Any, Sample]
"""A strategy at work on one task: yields effects, is sent their results, returns the submission."""


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What every strategy gets besides the task.

    Attributes:
        budget: LLM generations it may spend on the task, every call counted.
        feedback: What `Check` will show.
        chat: Whether the backbone takes the chat form of prompts.
        completes: Whether one that does takes the plain form, too.
        seed: Seed of the run; a strategy derives all of its randomness from it and the task's content.
        env: Decoding settings and the selector, shared by every strategy.
    """

    budget: int
    feedback: Feedback
    chat: bool
    seed: int
    env: EnvConfig = field(default_factory=EnvConfig)
    completes: bool = False

    @property
    def selector(self) -> Selector:
        """When to stop, and what to submit."""
        return Selector.parse(self.env.selector)


class Strategy(Protocol):
    """Turns a task into one submitted program within a budget.

    Written as plain sequential code for one task; the driver runs many tasks at once, batches their
    generations and checks, and enforces the budget.
    """

    name: str

    @property
    def rewriter(self) -> Backbone | None:
        """LLM of its semantic rewrites; None for the backbone itself."""
        ...

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Called once with every task before any `solve` (to embed them in one batch, for example)."""
        ...

    def solve(self, task: Task, context: StrategyContext) -> Solve: ...
