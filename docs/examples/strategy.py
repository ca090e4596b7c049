"""Strategy `escalate`: one greedy program, then samples at a temperature that rises to 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.records import Decoding, Feedback, Task
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.strategies.attempts import attempt, submission
from promptrl_plugin.strategies.base import Solve, StrategyContext


class Escalate:
    """A `promptrl_plugin.strategies.base.Strategy`."""

    name = "escalate"
    rewriter = None  # it rewrites nothing

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        state, attempts = PromptState.initial(task), list[Attempt]()
        for i in range(1 if context.feedback is Feedback.NONE else context.budget):
            how = Decoding(i / max(1, context.budget - 1), context.env.top_p, context.env.max_new_tokens)
            made = yield from attempt(task, state, how, context.seed, i)  # one generation, one check
            attempts.append((yield from context.selector.weigh(made, attempts)))
            if context.selector.settled(attempts):
                break
        return submission(task, attempts)


def make(backbone: Backbone, policy: Path | None, cache: Cache | None) -> Escalate:
    """The entry point; `policy` is None, since promptrl gives policies to its own learned strategies only."""
    return Escalate()
