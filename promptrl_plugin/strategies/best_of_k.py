"""`best-of-k`: sample the original prompt, submit the first program that passes what may be seen.

The control of every other strategy: one that does not beat it at the same budget has learned nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.env.selection import select
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render, text
from promptrl_plugin.records import (
    Check,
    Decoding,
    Feedback,
    Generate,
    GenerationRequest,
    OptimizedPrompt,
    Sample,
    Status,
    Task,
)
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["BestOfK"]


class BestOfK:
    """Up to `budget` samples of the original prompt at the hot temperature, k = budget.

    At ``feedback=none`` nothing tells samples apart, so the first is submitted and only one is drawn.
    """

    name = "best-of-k"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        state = PromptState.initial(task)
        prompt = render(task, state)
        env = context.env
        decoding = Decoding(env.hot_temperature, env.top_p, env.max_new_tokens)
        attempts: list[Attempt] = []
        for index in range(1 if context.feedback is Feedback.NONE else context.budget):
            (completion,) = yield Generate((GenerationRequest(prompt, decoding, context.seed, index),))
            raw, program = to_program(task, prompt, completion)
            (verdict,) = yield Check((program,))
            attempts.append(Attempt(state, program, raw, verdict, decoding))
            if verdict is not None and verdict.status is Status.PASS:
                break
        best = select(attempts)
        assert best is not None, "a budget of at least 1 makes at least one attempt"
        return Sample(
            task.id,
            best.program,
            best.raw_program,
            visible_status=best.verdict.status if best.verdict is not None else None,
            prompt=OptimizedPrompt(text(task, state)),
        )
