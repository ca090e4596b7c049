"""`reflexion`: implement, reflect on the failed test in words, implement again (arXiv 2303.11366).

As published for programming: greedy decoding throughout; an iteration is a self-reflection made from the
implementation and the test results, and a new implementation made from both and the reflection. The
published runs first let the model write the tests. Here every strategy is shown the task's visible tests, so
those take their place: they cost no generation, and none of them is wrong (written tests that are wrong
made Reflexion lose 3 points on MBPP in its own paper). Iterations go on until the budget is spent. A program that
passes leaves nothing to reflect on; where the selector asks for more (agreement), its prompt is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.state import PromptState, Repair
from promptrl_plugin.prompts.template import EOS, INSTRUCTION_PREFIX, RESPONSE_PREFIX, text
from promptrl_plugin.records import Decoding, Generate, GenerationRequest, Message, Prompt, Task
from promptrl_plugin.strategies.attempts import attempt, passed, sample_on, submission
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["Reflexion", "reflection_request"]

REFLECTION_TOKENS = 256  #: a few sentences
_ASK = (
    "Unit test results: {detail}\n\nIn a few sentences, explain why the implementation is wrong as the test shows. "
    "You will need this as a hint when you try again. Give only the explanation, not the implementation."
)
_OPENING = "The implementation is wrong because"


class Reflexion:
    """Draft, then pairs of a reflection and a new implementation within the budget; all greedy.

    At ``feedback=none`` there are no test results to reflect on, and the draft is submitted.
    """

    name = "reflexion"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        greedy = Decoding(0.0, 1.0, context.env.max_new_tokens)
        state, left = PromptState.initial(task), context.budget - 1
        attempts = [(yield from context.selector.weigh((yield from attempt(task, state, greedy)), ()))]
        while left >= 2 and attempts[-1].verdict is not None and not passed(attempts[-1]):
            last, detail = attempts[-1], attempts[-1].verdict.detail
            request = GenerationRequest(reflection_request(task, last), Decoding(0.0, 1.0, REFLECTION_TOKENS))
            (reflection,) = yield Generate((request,), rewriter=True)
            hint = f"{detail.rstrip('. ')}. {_OPENING} {' '.join(reflection.text.split())}"
            state = PromptState(state.prose, repair=Repair(last.program, hint), operators=(*state.operators, self.name))
            made = yield from attempt(task, state, greedy)
            attempts.append((yield from context.selector.weigh(made, attempts)))
            left -= 2
        if passed(attempts[-1]):
            yield from sample_on(task, state, context, attempts, left)
        return submission(task, attempts)


def reflection_request(task: Task, failed: Attempt) -> Prompt:
    """The request for a self-reflection, in chat and plain form."""
    detail = failed.verdict.detail if failed.verdict is not None else ""
    body, ask = text(task, PromptState.initial(task)).strip(), _ASK.format(detail=detail)
    program = failed.program.strip()
    return Prompt(
        messages=(
            Message("user", f"{INSTRUCTION_PREFIX}\n```\n{body}\n```\n"),
            Message("assistant", f"{RESPONSE_PREFIX}\n```python\n{program}\n```\n"),
            Message("user", ask),
        ),
        prefix=_OPENING,
        plain=f"{body}\n\n{program}\n\n# {' '.join(ask.split())}\n# {_OPENING}",
        stop=(*EOS[:3], "```"),
        plain_stop=(*EOS[:3], "\n"),
    )
