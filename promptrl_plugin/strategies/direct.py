"""`direct`: EvalPlus's own protocol, the baseline of every leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render, text
from promptrl_plugin.records import Decoding, Generate, GenerationRequest, OptimizedPrompt, Sample, Task
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["Direct"]


class Direct:
    """One greedy generation from EvalPlus's prompt, cleaned by EvalPlus's sanitizer."""

    name = "direct"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        state = PromptState.initial(task)
        prompt = render(task, state)
        decoding = Decoding(0.0, 1.0, context.env.max_new_tokens)
        (completion,) = yield Generate((GenerationRequest(prompt, decoding),))
        raw, program = to_program(task, prompt, completion)
        return Sample(task.id, program, raw, prompt=OptimizedPrompt(text(task, state)))
