"""One episode: a task, from its original prompt until its selector is satisfied, stopped, or out of budget.

The same class is stepped by the gymnasium environments (training) and by the `promptrl` and
`random-hybrid` strategies (test), so what is trained is what is run. It sees no hidden test.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.env.context import EpisodeContext, TaskContext
from promptrl_plugin.env.selection import Selector, passed, select
from promptrl_plugin.prompts.operators.base import Attempt, EpisodeView
from promptrl_plugin.prompts.programs import to_program
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.template import render, text
from promptrl_plugin.records import (
    Check,
    Completion,
    Effect,
    Feedback,
    Generate,
    GenerationRequest,
    GroupVerdict,
    OptimizedPrompt,
    Sample,
    Status,
    Step,
    content_hash,
)

__all__ = ["Episode", "StepRecord", "greedy_key"]


def greedy_key(state: PromptState) -> str:
    """Key of the deterministic generation from a prompt state (`EpisodeView.tried`)."""
    return f"{state.key}:greedy"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did.

    Attributes:
        action: Index of the action.
        generations: LLM generations that it spent.
        attempt: The program it made, None where it made none (stop, revert).
        repeated: Whether that program had been made before in the episode.
        state: The prompt after it.
    """

    action: int
    generations: int
    attempt: Attempt | None
    repeated: bool
    state: PromptState


class Episode:
    """State machine of one episode.

    Args:
        task_context: The task, its examples and embedding.
        context: Settings of the run.
        budget: Generations that may be spent.
        variant: Distinguishes repeated episodes on one task; 0 at test. Enters the sampling seed.
    """

    def __init__(self, task_context: TaskContext, context: EpisodeContext, budget: int, variant: int = 0) -> None:
        self.task_context = task_context
        self.context = context
        self.budget = budget
        self.variant = variant
        self.task = task_context.task
        self.state = PromptState.initial(self.task)
        self.population: list[PromptState] = [self.state]
        self.attempts: list[Attempt] = []
        self.steps: list[StepRecord] = []
        self.spent = 0
        self.done = False
        self.selector = Selector.parse(context.env.selector)
        self._tried: set[str] = set()
        self._draws: dict[str, int] = {}

    # --- what can be seen ------------------------------------------------------------------------

    @property
    def solved(self) -> bool:
        """Whether a program passed everything that the feedback mode shows."""
        return any(map(passed, self.attempts))

    @property
    def best(self) -> Attempt | None:
        """The attempt that would be submitted now."""
        return select(self.attempts)

    def view(self) -> EpisodeView:
        best = self.best
        return EpisodeView(
            task=self.task,
            state=self.state,
            best_state=replace(best.state, completion=False) if best is not None else self.population[0],
            population=tuple(self.population),
            last=self.attempts[-1] if self.attempts else None,
            best=best,
            budget_left=self.budget - self.spent,
            chat=self.context.chat,
            fixed_examples=self.task_context.fixed_examples,
            nearest_examples=self.task_context.nearest_examples,
            other_examples=self.task_context.other_examples,
            tried=frozenset(self._tried),
            rewriter_chat=self.context.rewriter_chat,
            completes=self.context.completes,
            moved=bool(self.steps) and self.steps[-1].attempt is None,
        )

    def mask(self) -> npt.NDArray[np.bool_]:
        """Actions that may be taken now, bool ``[n_actions]``; at least one while not `done`."""
        return self.context.table.mask(self.view())

    # --- stepping --------------------------------------------------------------------------------

    def step(self, action: int) -> Generator[Effect, Any, StepRecord]:
        """Take one action; yields what it needs and returns what it did.

        Raises:
            ValueError: The action is masked, or the episode is over.
        """
        if self.done or not self.mask()[action]:
            raise ValueError(f"action {action} cannot be taken now")
        return (yield from self.perform(action))

    def perform(self, action: int) -> Generator[Effect, Any, StepRecord]:
        """`step` for an action that is known to be allowed."""
        operator = self.context.table.actions[action].operator
        before = self.spent
        state = yield from self._edit(action)
        self.state = replace(state, completion=False)  # what comes next is asked as usual
        attempt, repeated = None, False
        if operator.generates:
            attempt = yield from self._attempt(state, operator.decoding)
            repeated = any(a.program == attempt.program for a in self.attempts)
            self.attempts.append(attempt)
        record = StepRecord(action, self.spent - before, attempt, repeated, state)
        self.steps.append(record)
        self.done = operator.name == "stop" or self._over()
        return record

    def fork(self) -> Episode:
        """An episode in the same situation that goes its own way."""
        other = copy.copy(self)
        other.population, other.attempts, other.steps = list(self.population), list(self.attempts), list(self.steps)
        other._tried, other._draws = set(self._tried), dict(self._draws)
        return other

    def _over(self) -> bool:
        if self.context.feedback is not Feedback.NONE and self.selector.settled(self.attempts):
            return True
        return self.spent >= self.budget or not self.mask().any()

    def _edit(self, action: int) -> Generator[Effect, Any, PromptState]:
        table_action = self.context.table.actions[action]
        rng = self._rng(table_action.name)
        effects = table_action.operator.edit(self.view(), rng, self.context.decoding)
        answer: list[Completion] | None = None
        while True:
            try:
                wanted = effects.send(answer)  # type: ignore[arg-type]  # the first send must be None
            except StopIteration as stop:
                state: PromptState = stop.value
                member = replace(state, completion=False)
                if all(member.key != known.key for known in self.population):
                    self.population.append(member)
                return state
            self.spent += len(wanted.requests)
            answer = yield Generate(wanted.requests, rewriter=True)

    def _attempt(self, state: PromptState, kind: str) -> Generator[Effect, Any, Attempt]:
        decoding = self.context.decoding(kind)
        prompt = render(self.task, state)
        key = f"{state.key}:{kind}"
        index = self._draws.get(key, 0)
        self._draws[key] = index + 1
        self._tried.add(key)
        self.spent += 1
        seed = self.context.seed + 1_000_003 * self.variant
        (completion,) = yield Generate((GenerationRequest(prompt, decoding, seed, index),))
        raw, program = to_program(self.task, prompt, completion)
        (verdict,) = yield Check((program,))
        _check_verdict(verdict)
        made = Attempt(state, program, raw, verdict, decoding)
        return (yield from self.selector.weigh(made, self.attempts))

    def _rng(self, name: str) -> np.random.Generator:
        """Randomness of an edit: the same edit of the same prompt is the same in every run of a seed."""
        uses = self._draws.get(name, 0)
        self._draws[name] = uses + 1
        digest = content_hash(self.context.seed, self.task.content_hash, self.state.key, name, uses)
        return np.random.default_rng(int(digest[:16], 16))

    # --- result ----------------------------------------------------------------------------------

    def sample(self) -> Sample:
        """The submission. Token counts are the scheduler's, filled in by the caller."""
        best = self.best
        if best is None:
            return Sample(self.task.id, "", "", self.spent)
        return Sample(
            task_id=self.task.id,
            solution=best.program,
            raw_solution=best.raw_program,
            generations=self.spent,
            visible_status=best.verdict.status if best.verdict is not None else None,
            prompt=OptimizedPrompt(text(self.task, best.state), best.state.operators),
            actions=tuple(self.context.table.actions[s.action].name for s in self.steps),
            steps=self._traced(),
        )

    def _traced(self) -> tuple[Step, ...]:
        """The steps as the trace keeps them."""
        traced: list[Step] = []
        spent = made = 0
        for step in self.steps:
            spent += step.generations
            state, candidate = step.state, None
            if step.attempt is not None:
                candidate, made = made, made + 1
            examples = tuple(e.task_id for e in state.examples)
            traced.append(Step(spent, text(self.task, state), examples, state.repair is not None, candidate))
        return tuple(traced)


def _check_verdict(verdict: GroupVerdict | None) -> None:
    if verdict is not None and verdict.status is Status.ERROR:
        raise ValueError("the checker must raise JudgeError instead of showing an undecided verdict")
