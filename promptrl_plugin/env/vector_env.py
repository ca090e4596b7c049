"""Vector environment: dozens of tasks a step, one backbone batch and one judge batch a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from promptrl_plugin.env.episode import Episode
from promptrl_plugin.env.observation import LIMIT, ObservationLayout
from promptrl_plugin.env.recall import Recall
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.errors import UnknownNameError

__all__ = ["VectorPromptEnv"]

Choose = Callable[[int, int, npt.NDArray[np.float32], npt.NDArray[np.bool_]], int]
"""``(sub-environment, step, observation [obs_dim], mask [n_actions]) -> action``."""

MAX_STEPS = 24  #: truncation; more than any episode can use, since most actions spend a generation


class VectorPromptEnv:
    """Steps `num_envs` training episodes at once, with auto-reset.

    Episode k of sub-environment i is on task number ``k · num_envs + i`` of an endless row of shuffled decks, so that
    what comes next in one does not depend on how fast the others are. The number of the deck modulo `variants`
    enters the sampling seeds: the number of distinct draws is bounded, and the cache can serve most of them.

    Args:
        rollout: Steps the episodes.
        layout: Of the observation.
        num_envs: Number of sub-environments.
        seed: Of the order of tasks.
        variants: Number of distinct draws a task.
        recall: Allow only what was generated before; an episode that cannot go on so is truncated.

    Attributes:
        num_envs: Number of sub-environments.
        single_observation_space: ``Box(-LIMIT, LIMIT, (obs_dim,), float32)``.
        single_action_space: ``Discrete(n_actions)``.
    """

    def __init__(
        self,
        rollout: Rollout,
        layout: ObservationLayout,
        num_envs: int,
        *,
        seed: int = 0,
        variants: int = 1,
        recall: Recall | None = None,
    ) -> None:
        self.num_envs, self.recall = num_envs, recall
        self.rollout, self.layout, self.variants = rollout, layout, variants
        self.single_observation_space = gym.spaces.Box(-LIMIT, LIMIT, (layout.size,), np.float32)
        self.single_action_space: gym.spaces.Discrete = gym.spaces.Discrete(layout.n_actions)
        self._seed = seed
        self._decks: dict[int, list[int]] = {}
        self._dealt = [0] * num_envs
        self._turns = [0] * num_envs  # of `demonstration`: how many of its sequence have had theirs
        self._episodes: list[RewardedEpisode] = []

    # --- gymnasium-like interface -----------------------------------------------------------------

    def reset(self, *, seed: int | None = None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start every sub-environment on a fresh task; observations ``[num_envs, obs_dim]``."""
        if seed is not None:
            self._seed = seed
            self._decks.clear()
        self._dealt = [0] * self.num_envs
        self._episodes = [self._deal(i) for i in range(self.num_envs)]
        return self._observations(), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[
        npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
    ]:
        """Take ``actions[i]`` in sub-environment i.

        Returns:
            Observations float32 ``[n, obs_dim]`` (already of the new episode where one ended), rewards
            float64 ``[n]``, terminated and truncated bool ``[n]``, and infos: ``final_observation`` and
            ``episode`` (task, return, length, generations, solved, fraction, actions), both lists with
            None for sub-environments that go on.
        """
        rewards = np.asarray(self.rollout.step(list(zip(self._episodes, actions.tolist(), strict=True))))
        terminated = np.array([e.episode.done for e in self._episodes])
        truncated = np.array([self._cut(e.episode) for e in self._episodes])
        final: list[npt.NDArray[np.float32] | None] = [None] * self.num_envs
        summaries: list[dict[str, Any] | None] = [None] * self.num_envs
        for i in np.flatnonzero(terminated | truncated):
            final[i] = self.layout.observe(self._episodes[i].episode)
            summaries[i] = summary(self._episodes[i])
            self._episodes[i] = self._deal(int(i))
        infos = {"final_observation": final, "episode": summaries}
        return self._observations(), rewards, terminated, truncated, infos

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Allowed actions for the current observations, bool ``[num_envs, n_actions]``."""
        return np.stack([self._mask(e.episode) for e in self._episodes])

    def rehearse(self, n_steps: int, choose: Choose) -> None:
        """Generate what the next `n_steps` steps will ask for, if their actions are those of `choose`.

        Steps wait for the slowest of their generations; here no sub-environment waits for another, so that the
        backbone's batches stay full. Nothing changes but that what was made is in the cache of completions.
        """
        if self.recall is None:
            self.rollout.rehearse(
                [e.episode for e in self._episodes],
                n_steps,
                lambda i, t, episode: choose(i, t, self.layout.observe(episode), episode.mask()),
                lambda i, episode, k: self._start(i, self._dealt[i] + k).episode if self._over(episode) else None,
            )

    def demonstration(self, sequence: Sequence[str]) -> npt.NDArray[np.int64]:
        """The action of `sequence` whose turn it is in each sub-environment, int64 ``[num_envs]``.

        It is the first operator that is allowed of those that have not had their turn in the episode; −1 past the end.
        Each call is a turn, whatever action is then taken: call it once before every step.
        """
        ahead = [self._table_index(name) for name in sequence]
        shown = np.full(self.num_envs, -1)
        for i, (e, mask) in enumerate(zip(self._episodes, self.action_masks(), strict=True)):
            begin = self._turns[i] if e.episode.steps else 0
            turn = next((k for k in range(begin, len(ahead)) if mask[ahead[k]]), len(ahead))
            self._turns[i] = turn + 1
            if turn < len(ahead):
                shown[i] = ahead[turn]
        return shown

    # --- exact resume -----------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """JSON-able state: what was dealt, and each episode as its list of actions."""
        recall = {} if self.recall is None else {"recall": self.recall.get_state()}
        return recall | {
            "seed": self._seed,
            "dealt": list(self._dealt),
            "episodes": [
                {"task": e.index, "variant": e.episode.variant, "actions": [s.action for s in e.episode.steps]}
                for e in self._episodes
            ],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore `get_state`; running episodes are replayed (their generations come from the cache)."""
        if self.recall is not None:
            self.recall.set_state(state["recall"])
        self._seed, self._dealt = state["seed"], list(state["dealt"])
        self._decks.clear()
        saved: Sequence[dict[str, Any]] = state["episodes"]
        self._episodes = [self.rollout.start(s["task"], s["variant"]) for s in saved]
        for step in range(max((len(s["actions"]) for s in saved), default=0)):
            moves = [
                (e, s["actions"][step]) for e, s in zip(self._episodes, saved, strict=True) if step < len(s["actions"])
            ]
            self.rollout.step(moves)

    # --- internals --------------------------------------------------------------------------------

    def _table_index(self, name: str) -> int:
        names = self.rollout.context.table.names
        if name not in names:
            raise UnknownNameError("operator", name, names)
        return names.index(name)

    def _mask(self, episode: Episode) -> npt.NDArray[np.bool_]:
        return episode.mask() if self.recall is None else self.recall.mask(episode)

    def _cut(self, episode: Episode) -> bool:
        if episode.done:
            return False
        return len(episode.steps) >= MAX_STEPS or (self.recall is not None and not self.recall.mask(episode).any())

    def _over(self, episode: Episode) -> bool:
        return episode.done or self._cut(episode)

    def _deal(self, i: int) -> RewardedEpisode:
        """The next episode of sub-environment `i`, of those that can be replayed if that is asked."""
        for _ in range((self.variants + 1) * len(self.rollout.tasks)):
            e = self._start(i, self._dealt[i])
            self._dealt[i] += 1
            if self.recall is None or self.recall.mask(e.episode).any():
                return e
        return self._any_known()

    def _start(self, i: int, k: int) -> RewardedEpisode:
        """Episode `k` of sub-environment `i`."""
        deck, at = divmod(k * self.num_envs + i, len(self.rollout.tasks))
        if deck not in self._decks:
            rng = np.random.default_rng([self._seed, deck])
            self._decks[deck] = rng.permutation(len(self.rollout.tasks)).tolist()
        return self.rollout.start(self._decks[deck][at], deck % self.variants)

    def _any_known(self) -> RewardedEpisode:
        assert self.recall is not None
        for index in range(len(self.rollout.tasks)):
            for variant in range(self.variants):
                e = self.rollout.start(index, variant)
                if self.recall.mask(e.episode).any():
                    return e
        raise ValueError("nothing was generated yet that could be replayed")

    def _observations(self) -> npt.NDArray[np.float32]:
        return np.stack([self.layout.observe(e.episode) for e in self._episodes])


def summary(e: RewardedEpisode) -> dict[str, Any]:
    """What a finished episode was, for metrics and logs."""
    table = e.episode.context.table
    return {
        "task": e.episode.task.id,
        "return": e.total,
        "length": len(e.episode.steps),
        "generations": e.episode.spent,
        "solved": e.solved,
        "visible_solved": e.episode.solved,
        "fraction": e.fraction,
        "actions": [table.actions[s.action].name for s in e.episode.steps],
    }
