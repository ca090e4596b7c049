"""`epic`: evolutionary prompt engineering for code (EPiC, arXiv 2408.11198), cut to the budget.

1. The original prompt is run; its program is accepted at a fitness of 0.8.
2. One request asks for five rewrites of the description (temperature 0.9); with the original they are
   the first generation.
3. Fitness is the share of tests passed by the greedy program of a prompt. The search ends at fitness 1 (under
   selector ``agreement``: once that is satisfied), and at a generation's end once the best reaches 0.6.
4. The next generation: one prompt kept and four mutants, all drawn with replacement, weighted by fitness.
5. Mutation replaces each word that has a synonym with probability 0.25 (WordNet).
6. At most four generations. For an unsolved task EPiC falls back to the original prompt; here, as in every
   strategy, the first of the programs that pass most visible tests is submitted: the original's where none passes any.

EPiC lets the model write the tests of its fitness. Here every strategy is shown the task's visible tests,
so those take their place: they cost no generation, and none of them is wrong. The synonyms are this
package's table, which protects identifiers, numbers and quoted text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from promptrl_plugin.env.selection import Selector
from promptrl_plugin.prompts.operators import edits
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.prompts.operators.rewrite_rules import main_segment
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.task_text import fill, protected_names
from promptrl_plugin.prompts.template import EOS, text
from promptrl_plugin.records import (
    Decoding,
    Generate,
    GenerationRequest,
    Message,
    Prompt,
    Task,
    content_hash,
)
from promptrl_plugin.strategies.attempts import attempt, passed, submission
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["Epic", "parse_rewrites", "rewrites_request"]

ACCEPT, ENOUGH = 0.8, 0.6  #: fitness at which the original, or a generation's best, ends the search
REWRITES, KEPT, MUTANTS, GENERATIONS = 5, 1, 4, 4
REWRITE_TEMPERATURE, MUTATION_RATE = 0.9, 0.25
REWRITES_TOKENS, MAX_WORDS = 768, 350
_ASK = (
    f"Write {REWRITES} different rewrites of this task description for a Python programmer, as a numbered list. Each "
    f"must keep the meaning, may add detail that helps, and has at most {MAX_WORDS} words. Do not write code."
)
_NUMBERED = re.compile(r"(?m)^\s*\**(\d+)[.)]\**\s+")


class Epic:
    """EPiC with its own parameters, ended by the budget where that comes first.

    At ``feedback=none`` no test may be run; as in EPiC without generated tests, the first program is
    accepted.
    """

    name = "epic"
    rewriter = None

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Nothing to prepare."""

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        rng = np.random.default_rng(int(content_hash("epic", context.seed, task.content_hash)[:16], 16))
        greedy = Decoding(0.0, 1.0, context.env.max_new_tokens)
        original, left = PromptState.initial(task), context.budget - 1
        selector = context.selector
        attempts = [(yield from selector.weigh((yield from attempt(task, original, greedy)), ()))]
        if attempts[0].verdict is None or _ends(selector, attempts, ACCEPT) or left < 2 or not original.prose:
            return submission(task, attempts)
        states = yield from _rewrites(task, original, context.seed)
        left -= 1
        generation = [attempts[0]]
        for _ in range(GENERATIONS):
            for state in states[:left]:
                made = yield from attempt(task, state, greedy)
                generation.append((yield from selector.weigh(made, attempts)))
                attempts.append(generation[-1])
                left -= 1
                if selector.settled(attempts):
                    break
            if left < 1 or _ends(selector, attempts, ENOUGH):
                break
            generation, states = _next_generation(task, generation, rng)
        return submission(task, attempts)


def fitness(attempt: Attempt) -> float:
    """Share of the shown tests that the attempt's program passes."""
    return attempt.verdict.fraction if attempt.verdict is not None else 0.0


def _ends(selector: Selector, attempts: Sequence[Attempt], enough: float) -> bool:
    """Whether the best fitness is `enough`; where a program passes, that is for the selector to say."""
    if any(map(passed, attempts)):
        return selector.settled(attempts)
    return max(map(fitness, attempts)) >= enough


def rewrites_request(task: Task) -> Prompt:
    """The one request for all rewrites, in chat and plain form."""
    ask = f"{_ASK}\n\nTask description:\n{text(task, PromptState.initial(task)).strip()}"
    return Prompt((Message("user", ask),), "1. ", f"{ask}\n\nRewrites:\n1. ", EOS[:3], EOS[:3])


def parse_rewrites(answer: str) -> list[str]:
    """The rewrites of a numbered list that began with ``1. ``; code, empty and endless ones are left out."""
    pieces = [p for p in _NUMBERED.split(f"1. {answer}")[2::2]]
    rewrites = [" ".join(p.split()).strip("*\"' ") for p in pieces[:REWRITES]]
    fine = [r for r in rewrites if 3 <= len(r.split()) <= MAX_WORDS and "```" not in r and '"""' not in r]
    return list(dict.fromkeys(fine))


def _rewrites(task: Task, original: PromptState, seed: int) -> Generator[Generate, Any, list[PromptState]]:
    request = GenerationRequest(rewrites_request(task), Decoding(REWRITE_TEMPERATURE, 1.0, REWRITES_TOKENS), seed)
    (completion,) = yield Generate((request,), rewriter=True)
    at = main_segment(original)
    states = []
    for rewrite in parse_rewrites(completion.text):
        prose = (*original.prose[:at], fill(original.prose[at], rewrite), *original.prose[at + 1 :])
        states.append(replace(original, prose=prose, operators=("epic_rewrite",)))
    return states


def _next_generation(
    task: Task, generation: Sequence[Attempt], rng: np.random.Generator
) -> tuple[list[Attempt], list[PromptState]]:
    """Who is kept (with its attempt), and the mutants that are to be run."""
    weights = np.array([fitness(a) for a in generation])
    weights = weights / weights.sum() if weights.sum() else np.full(len(generation), 1 / len(generation))
    drawn = [generation[int(i)] for i in rng.choice(len(generation), KEPT + MUTANTS, p=weights)]
    return drawn[:KEPT], [_mutated(task, a.state, rng) for a in drawn[KEPT:]]


def _mutated(task: Task, state: PromptState, rng: np.random.Generator) -> PromptState:
    names = protected_names(task.prompt, task.entry_point)
    prose = tuple(
        edits.substitute(p, names, MUTATION_RATE, rng) if edits.replaceable(p, names) else p for p in state.prose
    )
    return replace(state, prose=prose, operators=(*state.operators, "epic_mutation"))
