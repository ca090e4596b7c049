"""`gymnasium.Env` of prompt optimization: one task an episode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from promptrl_plugin.env.observation import LIMIT, ObservationLayout
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.env.vector_env import MAX_STEPS, summary

__all__ = ["PromptEnv"]


class PromptEnv(gym.Env[npt.NDArray[np.float32], np.int64]):
    """One training episode at a time, for use with any gymnasium library.

    Args:
        rollout: Train tasks, backbone and judge.
        layout: Layout of the observation.
        strict_mask: Raise on a masked action; when off (default) it is a no-op that costs a step,
            since agents without masking may propose it.

    The observation is ``Box(-LIMIT, LIMIT, (obs_dim,), float32)`` as `ObservationLayout` documents, the
    action space is ``Discrete(n_actions)``; `action_masks` tells which actions are allowed (the name that
    sb3-contrib's MaskablePPO looks for). ``reset(options={"task": i})`` picks a task.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012  # gymnasium declares it as a plain dict

    def __init__(self, rollout: Rollout, layout: ObservationLayout, *, strict_mask: bool = False) -> None:
        self.rollout, self.layout, self.strict_mask = rollout, layout, strict_mask
        self.observation_space = gym.spaces.Box(-LIMIT, LIMIT, (layout.size,), np.float32)
        self.action_space: gym.spaces.Space[np.int64] = gym.spaces.Discrete(layout.n_actions)
        self.render_mode = "ansi"
        self._current: RewardedEpisode | None = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        index = int(self.np_random.integers(len(self.rollout.tasks))) if chosen is None else int(chosen)
        self._current, self._steps = self.rollout.start(index), 0
        return self.layout.observe(self._current.episode), {"task": self._current.episode.task.id}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        current = self._running()
        self._steps += 1
        if self.strict_mask or self.action_masks()[action]:
            (reward,) = self.rollout.step([(current, int(action))])
        else:
            reward = 0.0
        done = current.episode.done
        info = {"episode_summary": summary(current)} if done else {}
        return self.layout.observe(current.episode), float(reward), done, not done and self._steps >= MAX_STEPS, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Allowed actions now, bool ``[n_actions]``."""
        return self._running().episode.mask()

    def render(self) -> str:
        from promptrl_plugin.prompts.template import text

        episode = self._running().episode
        return text(episode.task, episode.state)

    def _running(self) -> RewardedEpisode:
        if self._current is None:
            raise RuntimeError("call reset() first")
        return self._current
