"""A small vector environment with masks, for tests of the agent."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class MaskedIdentityEnv:
    """The observation is one-hot; the action of that index pays 1, every other 0. Some are masked.

    Episodes last `length` steps; the end is a truncation in odd sub-environments and a termination in
    even ones. `taken_masked` counts actions that were not allowed.
    """

    def __init__(self, num_envs: int, n_actions: int = 6, length: int = 8, masked: int = 3) -> None:
        self.num_envs, self.n, self.length, self.masked = num_envs, n_actions, length, masked
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (n_actions,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(n_actions)
        self.rng = np.random.default_rng(0)
        self.taken_masked = 0
        self.final_observations: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        self.steps = np.arange(self.num_envs) % self.length
        self.total = np.zeros(self.num_envs)
        self._draw()
        return self._observations(), {}

    def _draw(self) -> None:
        self.states = self.rng.integers(self.n, size=self.num_envs)
        self.masks = np.ones((self.num_envs, self.n), dtype=bool)
        for i in range(self.num_envs):
            others = np.delete(np.arange(self.n), self.states[i])
            self.masks[i, self.rng.choice(others, self.masked, replace=False)] = False

    def _observations(self) -> np.ndarray:
        return np.eye(self.n, dtype=np.float32)[self.states]

    def action_masks(self) -> np.ndarray:
        return self.masks.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rows = np.arange(self.num_envs)
        self.taken_masked += int((~self.masks[rows, actions]).sum())
        rewards = (actions == self.states).astype(np.float64)
        self.total += rewards
        self.steps += 1
        done = self.steps >= self.length
        self._draw()
        final: list[np.ndarray | None] = [None] * self.num_envs
        episode: list[dict[str, Any] | None] = [None] * self.num_envs
        for i in np.flatnonzero(done):
            final[i] = self._observations()[i]
            self.final_observations.append(final[i])
            episode[i] = {"return": self.total[i], "length": int(self.steps[i]), "solved": True, "task": "t"}
        self.steps[done], self.total[done] = 0, 0.0
        self._draw()
        truncated = done & (rows % 2 == 1)
        return (
            self._observations(),
            rewards,
            done & ~truncated,
            truncated,
            {
                "final_observation": final,
                "episode": episode,
            },
        )

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "arrays": {k: getattr(self, k).copy() for k in ("steps", "total", "states", "masks")},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        for name, array in state["arrays"].items():
            setattr(self, name, array.copy())
