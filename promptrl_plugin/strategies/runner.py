"""Runs one strategy on many tasks: the straight line from tasks to samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.config import EnvConfig
from promptrl_plugin.env.feedback import Checker
from promptrl_plugin.env.scheduler import Job, Scheduler
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import Feedback, Sample, Task
from promptrl_plugin.strategies.base import Strategy, StrategyContext

__all__ = ["Assignment", "solve_tasks", "solve_together"]

_AT_ONCE = 512  # tasks under way of several assignments, a few times what a backbone writes at once


@dataclass(frozen=True, slots=True)
class Assignment:
    """Tasks for one strategy; see `solve_tasks`."""

    tasks: Sequence[Task]
    strategy: Strategy
    feedback: Feedback
    budget: int
    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    on_sample: Callable[[Sample], None] | None = None


def solve_tasks(
    tasks: Sequence[Task],
    strategy: Strategy,
    backbone: Backbone,
    checker: Checker,
    *,
    feedback: Feedback,
    budget: int,
    seed: int = 0,
    env: EnvConfig | None = None,
    on_sample: Callable[[Sample], None] | None = None,
    on_generation: Callable[[], None] | None = None,
) -> list[Sample]:
    """Solve every task within the budget; samples come in the order of `tasks`.

    Args:
        tasks: What to solve.
        strategy: How.
        backbone: Writes programs; wrap it in a cache, since equal requests recur.
        checker: What `feedback` shows (`promptrl_plugin.env.feedback.make_checker`).
        feedback: Mode, for strategies that act on it; at `visible` tasks without a visible test run as at `none`.
        budget: LLM generations a task, every call counted.
        seed: Seed of all sampling and of random choices.
        env: Decoding settings.
        on_sample: Called with each sample as soon as it is there.
        on_generation: Called at every finished generation, for progress.

    Raises:
        ConfigError: A budget below 1.
        BudgetError: The strategy overspent.
    """
    assignment = Assignment(tasks, strategy, feedback, budget, seed, env or EnvConfig(), on_sample)
    (samples,) = solve_together([assignment], backbone, checker, on_generation)
    return samples


def solve_together(
    assignments: Sequence[Assignment],
    backbone: Backbone,
    checker: Checker,
    on_generation: Callable[[], None] | None = None,
) -> list[list[Sample]]:
    """Solve several assignments, each begun while the last tasks of the one before are still written.

    So the backbone does not run empty at the end of each. Samples are those of one after the other.

    Args:
        assignments: Of strategies with the same rewriter; their samples come in this order.
        backbone, checker, on_generation: See `solve_tasks`.

    Raises:
        ConfigError: A budget below 1.
        BudgetError: A strategy overspent.
        ValueError: Two strategies have different rewriters.
    """
    rewriters = {id(a.strategy.rewriter): a.strategy.rewriter for a in assignments}
    if len(rewriters) > 1:
        raise ValueError("strategies with different rewriters cannot be solved together")
    jobs: list[Job[Sample]] = []
    takers: list[Callable[[Sample], None] | None] = []
    for a in assignments:
        if a.budget < 1:
            raise ConfigError(f"a budget of {a.budget} generations solves nothing; use --budget 1 or more")
        context = StrategyContext(a.budget, a.feedback, backbone.chat, a.seed, a.env, backbone.completes)
        a.strategy.prepare(a.tasks, context)
        jobs += [Job(task, a.strategy.solve(task, _context_of(task, context)), a.budget) for task in a.tasks]
        takers += [a.on_sample] * len(a.tasks)

    def finished(i: int, job: Job[Sample]) -> None:
        if (take := takers[i]) is not None:
            take(_complete(job))

    scheduler = Scheduler(backbone, checker, next(iter(rewriters.values()), None), on_generation)
    scheduler.run(jobs, finished, at_once=_AT_ONCE if len(assignments) > 1 else None)
    done = iter(jobs)
    return [[_complete(job) for job in itertools.islice(done, len(a.tasks))] for a in assignments]


def _context_of(task: Task, context: StrategyContext) -> StrategyContext:
    """At `visible` a task that shows no test is solved as at `none`: nothing tells its programs apart."""
    if context.feedback is Feedback.VISIBLE and not task.visible.count:
        return replace(context, feedback=Feedback.NONE)
    return context


def _complete(job: Job[Sample]) -> Sample:
    """The sample with what the scheduler counted."""
    assert job.result is not None
    usage = job.usage
    return replace(
        job.result,
        generations=usage.generations,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        candidates=tuple(job.candidates),
    )
