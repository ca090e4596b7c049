"""What PPO asks of its environments, and where it stands in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt

__all__ = ["Bools", "Floats", "MaskedVectorEnv", "Rehearsing", "Rewards", "Source", "dimensions"]

Floats = npt.NDArray[np.float32]
Rewards = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


class MaskedVectorEnv(Protocol):
    """Several environments stepped at once, each with a mask of allowed actions.

    A finished sub-environment starts its next episode by itself: `step` then returns the first
    observation of the new episode and, for each finished one, ``infos["final_observation"][i]`` (the last
    of the old episode) and, if wanted in the metrics, ``infos["episode"][i]`` (a dict of numbers such as
    ``return`` and ``length``); both are sequences of length `num_envs` with None elsewhere.
    """

    num_envs: int

    @property
    def single_observation_space(self) -> gymnasium.spaces.Space[Floats]:
        """``Box`` of shape ``[obs_dim]``, float32."""
        ...

    @property
    def single_action_space(self) -> gymnasium.spaces.Space[Any]:
        """``Discrete(n_actions)``."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start every episode anew; observations ``[n, obs_dim]``."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Floats, Rewards, Bools, Bools, dict[str, Any]]:
        """Observations ``[n, obs_dim]``, rewards, terminated and truncated ``[n]``, and infos."""
        ...

    def action_masks(self) -> Bools:
        """Allowed actions at the current observations, bool ``[n, n_actions]``."""
        ...

    def get_state(self) -> dict[str, Any]:
        """All that `set_state` needs to go on exactly from here: nested JSON data and numeric arrays."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned (tuples have become lists)."""
        ...


@runtime_checkable
class Rehearsing(Protocol):
    """Environments that can prepare the steps to come, where those of one need not wait for those of another."""

    def rehearse(self, n_steps: int, choose: Callable[[int, int, Floats, Bools], int]) -> None:
        """Prepare `n_steps` steps whose actions are ``choose(sub-environment, step, observation, mask)``."""
        ...


class Source:
    """Environments, with the observations that the next actions answer (None before the first reset)."""

    def __init__(self, env: MaskedVectorEnv) -> None:
        self.env = env
        self.observations: Floats | None = None
        self.ended = np.zeros(env.num_envs, dtype=np.bool_)  # who has ended an episode yet

    def get_state(self) -> dict[str, Any] | None:
        """All that `set_state` needs to go on from here; None before the first reset."""
        if self.observations is None:
            return None
        return {"observations": self.observations.copy(), "ended": self.ended.copy(), "env": self.env.get_state()}

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Restore `get_state`."""
        if state is not None:
            self.env.set_state(state["env"])
            self.observations = state["observations"]
            self.ended = np.array(state["ended"], dtype=np.bool_)


def dimensions(env: MaskedVectorEnv) -> tuple[int, int]:
    """Features and actions of the environments.

    Raises:
        ValueError: The spaces are not a flat ``Box`` and a ``Discrete``.
    """
    box, discrete = env.single_observation_space, env.single_action_space
    if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1:
        raise ValueError(f"observations must be a Box of one dimension, not {box}")
    if not isinstance(discrete, gymnasium.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, not {discrete}")
    return box.shape[0], int(discrete.n)
