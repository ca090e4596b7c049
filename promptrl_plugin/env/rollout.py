"""Steps rewarded training episodes in batches; the core of both gymnasium environments.

Only this module of the environment touches hidden tests, and only those of train tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.checking.base import Judge
from promptrl_plugin.config import RewardConfig
from promptrl_plugin.env.context import EpisodeContext, TaskContext
from promptrl_plugin.env.episode import Episode, StepRecord
from promptrl_plugin.env.feedback import make_checker
from promptrl_plugin.env.grader import TrainGrader
from promptrl_plugin.env.reward import all_pass, pass_fraction, potential, reward
from promptrl_plugin.env.scheduler import Job, Scheduler, TimeShares
from promptrl_plugin.prompts.operators.base import Attempt
from promptrl_plugin.records import Effect, Feedback
from promptrl_plugin.suites.hidden import TrainTask

__all__ = ["RewardedEpisode", "Rollout"]


@dataclass(slots=True)
class RewardedEpisode:
    """An episode on a train task together with its reward bookkeeping.

    Attributes:
        index: Position of the task in `Rollout.tasks`.
        phi: Φ of the best program so far.
        total: Sum of rewards so far.
        solved: After the end: whether the submission passed every test.
        fraction: Best share of the task's tests passed so far.
        right: Whether each program (by text) passed every test of the task.
    """

    index: int
    episode: Episode
    phi: float = 0.0
    total: float = 0.0
    fraction: float = 0.0
    solved: bool = False
    right: dict[str, bool] = field(default_factory=dict)


class Rollout:
    """Starts and steps rewarded episodes on train tasks.

    Args:
        tasks: Train tasks with their hidden tests.
        contexts: Examples and embedding of each, in the same order.
        context: Settings of the run.
        reward_config: Weights of the reward.
        gamma: γ of the potential difference.
        backbone: Writes programs (wrap it in a cache).
        judge: Judges them (wrap it in a cache).
        rewriter: Writes rewrites; None for the backbone itself.
        on_generation: Called at every finished generation.
        grader: Says how good a program is; by default the judge's verdicts on the hidden tests do.
    """

    def __init__(
        self,
        tasks: Sequence[TrainTask],
        contexts: Sequence[TaskContext],
        context: EpisodeContext,
        reward_config: RewardConfig,
        gamma: float,
        backbone: Backbone,
        judge: Judge,
        rewriter: Backbone | None = None,
        on_generation: Callable[[], None] | None = None,
        grader: TrainGrader | None = None,
    ) -> None:
        if len(tasks) != len(contexts) or not tasks:
            raise ValueError(f"{len(tasks)} tasks with {len(contexts)} contexts")
        self.tasks, self.contexts, self.context = list(tasks), list(contexts), context
        self.reward_config, self.gamma = reward_config, gamma
        self.grader = grader or TrainGrader(judge)
        hidden = {t.task.id: t.hidden for t in tasks} if context.feedback is Feedback.ORACLE else None
        self._scheduler = Scheduler(backbone, make_checker(context.feedback, judge, hidden), rewriter, on_generation)

    @property
    def seconds(self) -> TimeShares:
        """Where the time of all steps so far went."""
        return self._scheduler.seconds

    def start(self, index: int, variant: int = 0) -> RewardedEpisode:
        """A fresh episode on task number `index`."""
        episode = Episode(self.contexts[index], self.context, self.context.env.budget, variant)
        return RewardedEpisode(index, episode)

    def step(
        self, moves: Sequence[tuple[RewardedEpisode, int]], on_done: Callable[[], None] | None = None
    ) -> list[float]:
        """Take one action in each episode, all in one batch; returns the rewards.

        Args:
            moves: Episodes and actions.
            on_done: Called as each action is done, before any is graded.
        """
        before = [e.phi for e, _ in moves]
        jobs = [
            Job(e.episode.task, e.episode.step(int(action)), e.episode.budget - e.episode.spent) for e, action in moves
        ]
        records = self._scheduler.run(jobs, on_done and (lambda _i, _job: on_done()))
        self._grade([(e, r.attempt) for (e, _), r in zip(moves, records, strict=True) if r.attempt is not None])
        return [self._reward(e, r, phi, e.episode.done) for (e, _), r, phi in zip(moves, records, before, strict=True)]

    def play(self, episodes: Sequence[tuple[RewardedEpisode, Callable[[Episode], int]]]) -> None:
        """Bring each fresh episode to its end, its actions chosen by a function of it.

        The same as steps in turn, but no episode waits for the others: their last programs are written while
        those with the longest are still at the first.
        """
        jobs = [Job(e.episode.task, _acting(e.episode, act), e.episode.budget) for e, act in episodes]
        self._scheduler.run(jobs)
        for step in range(max((len(e.episode.steps) for e, _ in episodes), default=0)):
            now = [(e, e.episode.steps[step], e.phi) for e, _ in episodes if step < len(e.episode.steps)]
            self._grade([(e, record.attempt) for e, record, _ in now if record.attempt is not None])
            for e, record, phi in now:
                self._reward(e, record, phi, step == len(e.episode.steps) - 1)

    def rehearse(
        self,
        episodes: Sequence[Episode],
        n_steps: int,
        choose: Callable[[int, int, Episode], int],
        following: Callable[[int, Episode, int], Episode | None],
    ) -> None:
        """Run the next steps of copies of episodes, for what they generate alone: nothing is graded, nothing kept.

        Args:
            episodes: Where to begin.
            n_steps: Steps of each.
            choose: ``(number, step, episode) -> action``.
            following: ``(number, episode, episodes ended) -> episode`` to go on with, None while that one goes on.
        """
        jobs: list[Job[None]] = []

        def walk(number: int, episode: Episode) -> Generator[Effect, Any, None]:
            ended = 0
            for step in range(n_steps):
                yield from episode.step(choose(number, step, episode))
                if (after := following(number, episode, ended)) is not None:
                    episode, ended = after, ended + 1
                    jobs[number].task = episode.task

        for number, episode in enumerate(episodes):
            jobs.append(Job(episode.task, walk(number, episode.fork()), n_steps * episode.budget))
        self._scheduler.run(jobs)

    def _grade(self, attempts: Sequence[tuple[RewardedEpisode, Attempt]]) -> None:
        programs = [(self.tasks[e.index], a.program) for e, a in attempts]
        for (e, attempt), verdicts in zip(attempts, self.grader.grade(programs), strict=True):
            fraction = pass_fraction(verdicts)
            phi = potential(self.reward_config, attempt.program, e.episode.task.entry_point, fraction)
            e.fraction, e.phi = max(e.fraction, fraction), max(e.phi, phi)
            e.right[attempt.program] = all_pass(verdicts)

    def _reward(self, e: RewardedEpisode, record: StepRecord, phi_before: float, over: bool) -> float:
        best = e.episode.best
        e.solved = over and best is not None and e.right[best.program]
        r = reward(self.reward_config, self.gamma, phi_before, e.phi, e.solved, record.generations)
        e.total += r
        return r


def _acting(episode: Episode, act: Callable[[Episode], int]) -> Generator[Effect, Any, None]:
    while not episode.done:
        yield from episode.step(act(episode))
