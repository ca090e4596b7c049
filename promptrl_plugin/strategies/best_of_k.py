"""`best-of-k`: sample the original prompt until the selector is satisfied: by default, until a program passes.

The control of every other strategy: one that does not beat it at the same budget has learned nothing. Where the greedy
program is better than a sample, `greedy-best-of-k`, which begins with it, is the harder control.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.records import Feedback, Task
from promptrl_plugin.strategies.attempts import greedy_then_samples, sample_on, submission
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["BestOfK", "GreedyBestOfK"]


class BestOfK:
    """Up to `budget` samples of the original prompt at the hot temperature, k = budget.

    At ``feedback=none`` nothing tells samples apart, so the first is submitted and only one is drawn.
    """

    name = "best-of-k"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        attempts: list[Attempt] = []
        draws = 1 if context.feedback is Feedback.NONE else context.budget
        yield from sample_on(task, PromptState.initial(task), context, attempts, draws)
        return submission(task, attempts)


class GreedyBestOfK:
    """The greedy program, then up to `budget` − 1 samples of the original prompt at the hot temperature."""

    name = "greedy-best-of-k"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        return (yield from greedy_then_samples(task, context))
