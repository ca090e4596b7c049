"""Strategies that run episodes of the environment: `random-hybrid`, and what PPO, LinUCB or a search learned."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.best_fixed import follow
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.setup import EpisodeSetup
from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.env.context import TaskContext
from promptrl_plugin.env.episode import Episode
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.strategies.base import Solve, StrategyContext

__all__ = ["BestFixed", "LearnedEpisodes", "LinUCB", "PromptRL", "RandomHybrid", "check_use"]

Act = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], int]


class EpisodeStrategy(ABC):
    """Runs one episode a task; subclasses choose the actions.

    Args:
        setup: Action table, observation layout, examples and embeddings.
        rewriter: LLM of semantic rewrites; None for the backbone itself.
    """

    name: str

    def __init__(self, setup: EpisodeSetup, rewriter: Backbone | None = None) -> None:
        self.setup = setup
        self.rewriter = rewriter
        self._contexts: dict[str, TaskContext] = {}

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Embed the tasks and choose their examples, in one batch."""
        missing = [t for t in tasks if t.content_hash not in self._contexts]
        for task_context in self.setup.task_contexts(missing):
            self._contexts[task_context.task.content_hash] = task_context

    def solve(self, task: Task, context: StrategyContext) -> Solve:
        if task.content_hash not in self._contexts:
            self.prepare([task], context)
        task_context = replace(self._contexts[task.content_hash], task=task)
        rewriter_chat = context.chat if self.rewriter is None else self.rewriter.chat
        run = self.setup.episode_context(
            context.env, context.feedback, context.chat, context.seed, rewriter_chat, completes=context.completes
        )
        episode = Episode(task_context, run, context.budget)
        act = self.actor(task, context)
        while not episode.done:
            action = act(self.setup.layout.observe(episode), episode.mask())
            yield from episode.step(action)
        return episode.sample()

    @abstractmethod
    def actor(self, task: Task, context: StrategyContext) -> Act:
        """How actions are chosen on one task."""


class RandomHybrid(EpisodeStrategy):
    """Uniform over the unmasked actions: the same operators, nothing learned. It does not stop before it has to.

    Args:
        setup: Action table, observation layout, examples and embeddings.
        rewriter: LLM of semantic rewrites; None for the backbone itself.
        bundle: Whose operators they are; None where they are all. It refuses what it refuses its own strategy: both
            are compared on the same tasks, and show the same examples.

    Attributes:
        policy_hash: Content hash of the bundle, empty without one.
    """

    name = "random-hybrid"

    def __init__(
        self, setup: EpisodeSetup, rewriter: Backbone | None = None, bundle: PolicyBundle | None = None
    ) -> None:
        super().__init__(setup, rewriter)
        self._bundle = bundle
        self.policy_hash = bundle.content_hash if bundle is not None else ""

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Refuse tasks that are shown as examples, or trained the policy; then embed.

        Raises:
            LeakageError: One of `tasks` is, or is a near-duplicate of, such a task.
        """
        if self._bundle is not None:
            self._bundle.check_no_leak(tasks)
        else:
            self.setup.library.check_unseen(tasks)
        super().prepare(tasks, context)

    def actor(self, task: Task, context: StrategyContext) -> Act:
        rng = np.random.default_rng(int(content_hash("random-hybrid", context.seed, task.content_hash)[:16], 16))
        return lambda _observation, mask: self.setup.table.draw(mask, rng)


class LearnedEpisodes(EpisodeStrategy):
    """Acts by what a policy bundle holds.

    Args:
        setup: What the bundle was trained with.
        bundle: What was learned; it refuses tasks that trained it.
        rewriter: The LLM that wrote rewrites in training, where it was not the backbone.

    Attributes:
        policy_hash: Content hash of the bundle, part of a samples file's identity.
    """

    def __init__(self, setup: EpisodeSetup, bundle: PolicyBundle, rewriter: Backbone | None = None) -> None:
        super().__init__(setup, rewriter)
        self._bundle = bundle
        self.policy_hash = bundle.content_hash

    def prepare(self, tasks: Sequence[Task], context: StrategyContext) -> None:
        """Refuse train tasks, then embed.

        Raises:
            LeakageError: One of `tasks` is, or is a near-duplicate of, a train task of the policy.
        """
        check_use(self._bundle, tasks, context)
        super().prepare(tasks, context)


class PromptRL(LearnedEpisodes):
    """The agent that PPO trained, acting greedily."""

    name = "promptrl"

    def __init__(self, setup: EpisodeSetup, bundle: PolicyBundle, rewriter: Backbone | None = None) -> None:
        super().__init__(setup, bundle, rewriter)
        self._policy = bundle.policy()

    def actor(self, task: Task, context: StrategyContext) -> Act:
        return self._policy


class LinUCB(PromptRL):
    """The contextual bandit, acting by the highest mean payoff."""

    name = "linucb"


class BestFixed(LearnedEpisodes):
    """The best fixed sequence of operators on the train tasks."""

    name = "best-fixed"

    def actor(self, task: Task, context: StrategyContext) -> Act:
        return follow(self.setup.table, self._bundle.network["sequence"])


def check_use(bundle: PolicyBundle, tasks: Sequence[Task], context: StrategyContext) -> None:
    """Refuse tasks that a policy was trained on; warn where it was trained in other circumstances.

    Raises:
        LeakageError: One of `tasks` is, or is a near-duplicate of, a train task of the policy.
    """
    bundle.check_no_leak(tasks)
    trained = bundle.train_config().env
    then, now = (
        f"feedback={feedback}, budget {budget} and selector {Selector.parse(selector)}"
        for feedback, budget, selector in (
            (trained.feedback, trained.budget, trained.selector),
            (context.feedback.value, context.budget, context.env.selector),
        )
    )
    if then != now:
        warnings.warn(f"the policy was trained at {then}, this is {now}: it may do less well", stacklevel=3)
