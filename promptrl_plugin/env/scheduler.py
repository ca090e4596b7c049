"""Runs many effect generators at once, so that the backbone never waits for one of them.

A *job* is a generator that yields `Generate`, `Check` and `Execute` effects and returns a result (a strategy on
one task, one step of an episode, …). The scheduler advances every job as far as it goes and hands all
requests to the backbone together. A backbone that streams takes a job's next request as soon as it is
there; another gets one batch a wave. Programs are judged in a thread of their own while the backbone
writes others. This is the only place where generations are counted, so no strategy can spend more than
its budget unnoticed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from promptrl_plugin.backbones.base import Backbone, as_streaming
from promptrl_plugin.env.feedback import Checker, as_executor
from promptrl_plugin.errors import BudgetError
from promptrl_plugin.records import (
    Candidate,
    Check,
    Completion,
    Effect,
    Execute,
    Generate,
    GenerationRequest,
    GroupVerdict,
    Task,
    content_hash,
)

__all__ = ["Job", "Scheduler", "TimeShares", "Usage"]

T = TypeVar("T")

_Verdicts = list[GroupVerdict | None]
_Outcomes = list[tuple[str, ...]]


@dataclass(slots=True)
class Usage:
    """What a job has spent so far."""

    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class TimeShares:
    """Where wall time went, in seconds, over all runs of a scheduler.

    Attributes:
        total: In `Scheduler.run`.
        judging: The judge was at work, beside the backbone or alone.
        waiting: The backbone had nothing to do but wait for the judge.
    """

    total: float = 0.0
    judging: float = 0.0
    waiting: float = 0.0


@dataclass(slots=True)
class Job(Generic[T]):
    """One generator at work on one task.

    Attributes:
        task: The task that its `Check` and `Execute` effects are about.
        effects: The generator.
        budget: Generations that it may still spend.
        usage: What it has spent.
        candidates: What it has had checked.
        result: What it returned, once `done`.
    """

    task: Task
    effects: Generator[Effect, Any, T]
    budget: int
    usage: Usage = field(default_factory=Usage)
    candidates: list[Candidate] = field(default_factory=list)
    result: T | None = None
    done: bool = False


class Scheduler:
    """Drives jobs against one backbone, one rewriter and one checker.

    Args:
        backbone: Writes programs.
        checker: Answers `Check` effects, and `Execute` effects where it is an `Executor` (see
            `promptrl_plugin.env.feedback`); called in another thread.
        rewriter: Writes rewrites; None for the backbone itself.
        on_generation: Called once for every finished generation (for progress bars).

    Attributes:
        seconds: Where the time went.
    """

    def __init__(
        self,
        backbone: Backbone,
        checker: Checker,
        rewriter: Backbone | None = None,
        on_generation: Callable[[], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.checker, self.executor = checker, as_executor(checker)
        self.rewriter = rewriter or backbone
        self.on_generation = on_generation
        self.seconds = TimeShares()

    def run(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[int, Job[T]], None] | None = None,
        at_once: int | None = None,
    ) -> list[T]:
        """Run every job to its end; results come in the order of `jobs`.

        Args:
            jobs: What to run; started in order.
            on_done: Called with position and job as soon as a job returns.
            at_once: Jobs that may be under way; None for all. The next starts as soon as one returns, so that early
                jobs end early and the backbone still has work while the last ones of them are finished.

        Raises:
            BudgetError: A job asked for more generations than its budget.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge") as thread:
            try:
                _Session(self, jobs, on_done, thread, at_once or len(jobs)).run()
            finally:
                self.seconds.total += time.monotonic() - started
        return [job.result for job in jobs]  # type: ignore[misc]  # every job is done here


@dataclass(slots=True)
class _Answers:
    """Completions of one `Generate` effect, as far as they are there."""

    completions: list[Completion | None]
    missing: int


class _Session(Generic[T]):
    """One run: what each job waits for. Implements `promptrl_plugin.backbones.base.Feed`."""

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: Sequence[Job[T]],
        on_done: Callable[[int, Job[T]], None] | None,
        thread: ThreadPoolExecutor,
        at_once: int,
    ) -> None:
        self._scheduler, self._jobs, self._on_done, self._thread = scheduler, jobs, on_done, thread
        self._at_once, self._started, self._ended = at_once, 0, 0
        self._tickets: list[tuple[int, int]] = []  # job and position in its effect, by ticket
        self._answers: dict[int, _Answers] = {}
        self._queue: deque[tuple[int, GenerationRequest]] = deque()
        self._rewrites: deque[tuple[int, GenerationRequest]] = deque()
        self._unchecked: list[tuple[int, Check | Execute]] = []
        self._checked: list[tuple[int, Check | Execute]] = []  # with the judge now
        self._verdicts: Future[tuple[_Verdicts, _Outcomes]] | None = None

    def run(self) -> None:
        self._go_on()
        streaming = as_streaming(self._scheduler.backbone)
        if streaming is not None:
            streaming.serve(self)
            return
        while batch := self._wave():
            self._generate(self._scheduler.backbone, batch)

    def _go_on(self, block: bool = False) -> None:
        """Take verdicts that are there, and start jobs in the place of those that ended."""
        self._collect(block)
        while self._start():
            self._collect(block=False)

    def _start(self) -> bool:
        """Start as many more jobs as may be under way; whether there were any."""
        before = self._started
        while self._started < len(self._jobs) and self._started - self._ended < self._at_once:
            self._started += 1
            self._advance(self._started - 1, None)
        return self._started > before

    # --- the backbone's side ---------------------------------------------------------------------

    def take(self, wait: bool) -> Sequence[tuple[int, GenerationRequest]]:
        """See `Feed.take`."""
        self._go_on()
        while wait and not self._queue:
            if self._rewrites:
                self._rewrite()
                self._go_on()
            elif self._verdicts is not None:
                self._go_on(block=True)
            else:
                break
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def deliver(self, ticket: int, completion: Completion) -> None:
        """See `Feed.deliver`."""
        i, position = self._tickets[ticket]
        answers, usage = self._answers[i], self._jobs[i].usage
        assert answers.completions[position] is None
        answers.completions[position] = completion
        answers.missing -= 1
        usage.prompt_tokens += completion.prompt_tokens
        usage.completion_tokens += completion.completion_tokens
        if self._scheduler.on_generation is not None:
            self._scheduler.on_generation()
        if not answers.missing:
            del self._answers[i]
            self._advance(i, answers.completions)
            self._collect(block=False)

    def _wave(self) -> list[tuple[int, GenerationRequest]]:
        """All requests of all jobs, once every program is judged."""
        self._go_on()
        while self._verdicts is not None or self._rewrites:
            while self._verdicts is not None:
                self._go_on(block=True)
            if self._rewrites:
                self._rewrite()
                self._go_on()
        return list(self.take(wait=False))

    def _rewrite(self) -> None:
        batch = list(self._rewrites)
        self._rewrites.clear()
        self._generate(self._scheduler.rewriter, batch)

    def _generate(self, backbone: Backbone, batch: Sequence[tuple[int, GenerationRequest]]) -> None:
        delivered: set[int] = set()

        def on_progress(position: int, completion: Completion) -> None:
            delivered.add(position)
            self.deliver(batch[position][0], completion)

        completions = backbone.generate([request for _, request in batch], on_progress)
        for position, completion in enumerate(completions):
            if position not in delivered:  # by a backbone that does not report progress
                on_progress(position, completion)

    # --- the judge's side ------------------------------------------------------------------------

    def _collect(self, block: bool) -> None:
        """Take verdicts that are there, advance their jobs, and give the judge what came up meanwhile."""
        if self._verdicts is not None and (block or self._verdicts.done()):
            begin = time.monotonic()
            found, ran = self._verdicts.result()
            verdicts, outcomes = iter(found), iter(ran)
            self._scheduler.seconds.waiting += time.monotonic() - begin
            jobs, self._checked, self._verdicts = self._checked, [], None
            for i, effect in jobs:
                if isinstance(effect, Check):
                    self._checked_off(i, effect, [next(verdicts) for _ in effect.programs])
                else:
                    self._executed(i, effect, [next(outcomes) for _ in effect.programs])
        if self._verdicts is None and self._unchecked:
            self._checked, self._unchecked = self._unchecked, []
            checks, runs = (
                [(self._jobs[i].task, p) for i, e in self._checked if isinstance(e, kind) for p in e.programs]
                for kind in (Check, Execute)
            )
            self._verdicts = self._thread.submit(self._judge, checks, runs)

    def _checked_off(self, i: int, check: Check, verdicts: list[GroupVerdict | None]) -> None:
        job = self._jobs[i]
        for program, verdict in zip(check.programs, verdicts, strict=True):
            visible, failure = (verdict.fraction, verdict.failure) if verdict is not None else (None, None)
            job.candidates.append(Candidate(program, job.usage.generations, visible, failure))
        self._advance(i, verdicts)

    def _executed(self, i: int, run: Execute, outcomes: _Outcomes) -> None:
        """Note on the latest candidate of each program what it did."""
        candidates = self._jobs[i].candidates
        for program, did in zip(run.programs, outcomes, strict=True):
            at = max((n for n, c in enumerate(candidates) if c.program == program), default=None)
            if at is not None:
                candidates[at] = replace(candidates[at], outcomes=content_hash(did)[:16] if did else "")
        self._advance(i, outcomes)

    def _judge(self, checks: list[tuple[Task, str]], runs: list[tuple[Task, str]]) -> tuple[_Verdicts, _Outcomes]:
        begin = time.monotonic()
        try:
            return (
                self._scheduler.checker(checks) if checks else [],
                self._scheduler.executor.execute(runs) if runs else [],
            )
        finally:
            self._scheduler.seconds.judging += time.monotonic() - begin

    # --- the jobs' side --------------------------------------------------------------------------

    def _advance(self, i: int, answer: Any) -> None:
        job = self._jobs[i]
        try:
            effect = job.effects.send(answer)
        except StopIteration as stop:
            job.result, job.done = stop.value, True
            self._ended += 1
            if self._on_done is not None:
                self._on_done(i, job)
            return
        if isinstance(effect, Check | Execute):
            self._unchecked.append((i, effect))
        else:
            self._request(i, effect)

    def _request(self, i: int, effect: Generate) -> None:
        job = self._jobs[i]
        wanted = job.usage.generations + len(effect.requests)
        if wanted > job.budget:
            raise BudgetError(f"{job.task.id}: {wanted} generations asked for, the budget is {job.budget}")
        job.usage.generations = wanted
        self._answers[i] = _Answers([None] * len(effect.requests), len(effect.requests))
        elsewhere = effect.rewriter and self._scheduler.rewriter is not self._scheduler.backbone
        queue = self._rewrites if elsewhere else self._queue
        for position, request in enumerate(effect.requests):
            queue.append((len(self._tickets), request))
            self._tickets.append((i, position))
