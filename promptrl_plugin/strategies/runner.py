"""Runs one strategy on many tasks: the straight line from tasks to samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.config import EnvConfig
from promptrl_plugin.env.feedback import Checker
from promptrl_plugin.env.scheduler import Job, Scheduler
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import Feedback, Sample, Task
from promptrl_plugin.strategies.base import Strategy, StrategyContext

__all__ = ["solve_tasks"]


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
    if budget < 1:
        raise ConfigError(f"a budget of {budget} generations solves nothing; use --budget 1 or more")
    context = StrategyContext(budget, feedback, backbone.chat, seed, env or EnvConfig(), backbone.completes)
    strategy.prepare(tasks, context)
    jobs = [Job(task, strategy.solve(task, _context_of(task, context)), budget) for task in tasks]

    def finished(_i: int, job: Job[Sample]) -> None:
        if on_sample is not None:
            on_sample(_complete(job))

    Scheduler(backbone, checker, strategy.rewriter, on_generation).run(jobs, finished)
    return [_complete(job) for job in jobs]


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
