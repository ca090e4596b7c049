"""Runs many effect generators at once: one backbone batch and one judge batch a wave.

A *job* is a generator that yields `Generate` and `Check` effects and returns a result (a strategy on
one task, one step of an episode, …). The scheduler advances every job until each waits for
generations, sends all of those to the backbone in one call, and so on. It is the only place where
generations are counted, so no strategy can spend more than its budget unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.env.feedback import Checker
from promptrl_plugin.errors import BudgetError
from promptrl_plugin.records import Check, Completion, Generate, GenerationRequest, Task

__all__ = ["Job", "Scheduler", "Usage"]

T = TypeVar("T")


@dataclass(slots=True)
class Usage:
    """What a job has spent so far."""

    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Job(Generic[T]):
    """One generator at work on one task.

    Attributes:
        task: The task that its `Check` effects are about.
        effects: The generator.
        budget: Generations that it may still spend.
        usage: What it has spent.
        result: What it returned, once `done`.
    """

    task: Task
    effects: Generator[Generate | Check, Any, T]
    budget: int
    usage: Usage = field(default_factory=Usage)
    result: T | None = None
    done: bool = False


class Scheduler:
    """Drives jobs against one backbone, one rewriter and one checker.

    Args:
        backbone: Writes programs.
        checker: Answers `Check` effects (see `promptrl_plugin.env.feedback`).
        rewriter: Writes rewrites; None for the backbone itself.
        on_generation: Called once for every finished generation (for progress bars).
    """

    def __init__(
        self,
        backbone: Backbone,
        checker: Checker,
        rewriter: Backbone | None = None,
        on_generation: Callable[[], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.checker = checker
        self.rewriter = rewriter or backbone
        self.on_generation = on_generation

    def run(self, jobs: Sequence[Job[T]], on_done: Callable[[int, Job[T]], None] | None = None) -> list[T]:
        """Run every job to its end; results come in the order of `jobs`.

        `on_done` is called with position and job as soon as a job returns.

        Raises:
            BudgetError: A job asked for more generations than its budget.
        """
        pending: dict[int, Generate | Check] = {}
        for i in range(len(jobs)):
            self._advance(jobs, i, None, pending, on_done)
        while pending:
            checks = {i: e for i, e in pending.items() if isinstance(e, Check)}
            if checks:
                answers: dict[int, list[Any]] = self._check(jobs, checks)
            else:
                answers = self._generate(jobs, {i: e for i, e in pending.items() if isinstance(e, Generate)})
            for i, answer in answers.items():
                del pending[i]
                self._advance(jobs, i, answer, pending, on_done)
        return [job.result for job in jobs]  # type: ignore[misc]  # every job is done here

    def _advance(
        self,
        jobs: Sequence[Job[T]],
        i: int,
        answer: Any,
        pending: dict[int, Generate | Check],
        on_done: Callable[[int, Job[T]], None] | None,
    ) -> None:
        job = jobs[i]
        try:
            effect = job.effects.send(answer)
        except StopIteration as stop:
            job.result, job.done = stop.value, True
            if on_done is not None:
                on_done(i, job)
            return
        if isinstance(effect, Generate):
            wanted = job.usage.generations + len(effect.requests)
            if wanted > job.budget:
                raise BudgetError(f"{job.task.id}: {wanted} generations asked for, the budget is {job.budget}")
            job.usage.generations = wanted
        pending[i] = effect

    def _check(self, jobs: Sequence[Job[T]], checks: dict[int, Check]) -> dict[int, list[Any]]:
        flat = [(jobs[i].task, program) for i, e in checks.items() for program in e.programs]
        verdicts = iter(self.checker(flat))
        return {i: [next(verdicts) for _ in e.programs] for i, e in checks.items()}

    def _generate(self, jobs: Sequence[Job[T]], wanted: dict[int, Generate]) -> dict[int, list[Any]]:
        answers: dict[int, list[Any]] = {}
        for use_rewriter in (True, False):
            effects = {i: e for i, e in wanted.items() if e.rewriter is use_rewriter}
            if not effects:
                continue
            backbone = self.rewriter if use_rewriter else self.backbone
            completions = iter(self._complete(backbone, [r for e in effects.values() for r in e.requests]))
            for i, effect in effects.items():
                answers[i] = [next(completions) for _ in effect.requests]
                for completion in answers[i]:
                    jobs[i].usage.prompt_tokens += completion.prompt_tokens
                    jobs[i].usage.completion_tokens += completion.completion_tokens
        return answers

    def _complete(self, backbone: Backbone, requests: list[GenerationRequest]) -> list[Completion]:
        tick = self.on_generation
        return backbone.generate(requests, on_progress=None if tick is None else (lambda _i, _c: tick()))
