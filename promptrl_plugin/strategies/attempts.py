"""What strategies share: one attempt at a task, and the submission made of several."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from promptrl_plugin.env.selection import passed, select
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import INSTRUCTION_PREFIX, render, text
from promptrl_plugin.records import (
    Check,
    Decoding,
    Effect,
    Feedback,
    Generate,
    GenerationRequest,
    OptimizedPrompt,
    Sample,
    Task,
)
from promptrl_plugin.strategies.base import StrategyContext

__all__ = ["attempt", "greedy_then_samples", "passed", "sample_on", "submission"]


def attempt(
    task: Task,
    state: PromptState,
    decoding: Decoding,
    seed: int = 0,
    index: int = 0,
    instruction: str = INSTRUCTION_PREFIX,
) -> Generator[Effect, Any, Attempt]:
    """Write one program from `state` and see what the feedback mode shows of it; spends one generation.

    Args:
        task: The task.
        state: Its prompt.
        decoding: How to decode.
        seed, index: Of a sampled generation.
        instruction: What stands before the task in the place of EvalPlus's instruction.
    """
    prompt = render(task, state, instruction)
    (completion,) = yield Generate((GenerationRequest(prompt, decoding, seed, index),))
    raw, program = to_program(task, prompt, completion)
    (verdict,) = yield Check((program,))
    return Attempt(state, program, raw, verdict, decoding)


def sample_on(
    task: Task,
    state: PromptState,
    context: StrategyContext,
    attempts: list[Attempt],
    left: int,
    instruction: str = INSTRUCTION_PREFIX,
) -> Generator[Effect, Any, None]:
    """Sample `state` at the hot temperature until the selector is satisfied or `left` generations are spent.

    Adds to `attempts`. What a strategy without a next step of its own does after a program that passes.
    """
    decoding = Decoding(context.env.hot_temperature, context.env.top_p, context.env.max_new_tokens)
    for index in range(left):
        if context.selector.settled(attempts):
            break
        made = yield from attempt(task, state, decoding, context.seed, index, instruction)
        attempts.append((yield from context.selector.weigh(made, attempts)))


def greedy_then_samples(
    task: Task, context: StrategyContext, instruction: str = INSTRUCTION_PREFIX
) -> Generator[Effect, Any, Sample]:
    """The greedy program of the task's own prompt, then hot samples of it until the selector is satisfied.

    At ``feedback=none`` nothing tells samples apart, so the greedy program is submitted.
    """
    state = PromptState.initial(task)
    greedy = Decoding(0.0, 1.0, context.env.max_new_tokens)
    first = yield from attempt(task, state, greedy, instruction=instruction)
    attempts: list[Attempt] = [(yield from context.selector.weigh(first, ()))]
    left = 0 if context.feedback is Feedback.NONE else context.budget - 1
    yield from sample_on(task, state, context, attempts, left, instruction)
    return submission(task, attempts)


def submission(task: Task, attempts: Sequence[Attempt]) -> Sample:
    """The sample of `attempts` by the rule of `env.selection`; spending is filled in by the driver."""
    best = select(attempts)
    if best is None:
        raise ValueError(f"{task.id}: nothing was attempted")
    return Sample(
        task.id,
        best.program,
        best.raw_program,
        visible_status=best.verdict.status if best.verdict is not None else None,
        prompt=OptimizedPrompt(text(task, best.state), best.state.operators),
    )
