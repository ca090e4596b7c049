"""What PPO collects: the transitions of a rollout, with advantages by generalised advantage estimation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Rollout", "compute_gae"]


def compute_gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    ``δ_t = r_t + γ·V(s_{t+1})·[not terminated] − V(s_t)`` and
    ``A_t = δ_t + γλ·A_{t+1}·[neither terminated nor truncated]``: a truncated episode is cut, too, but
    keeps the value of the state that it would have gone on from.

    Args:
        rewards, values: float ``[T, n]``.
        next_values: ``V(s_{t+1})``, float ``[T, n]``; of the old episode's last observation where it was
            truncated; ignored where it terminated.
        terminated, truncated: bool ``[T, n]``.

    Returns:
        Advantages, float ``[T, n]``; returns are advantages + values.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in reversed(range(rewards.shape[0])):
        delta = rewards[t] + gamma * next_values[t] * ~terminated[t] - values[t]
        following = delta + gamma * gae_lambda * following * ~(terminated[t] | truncated[t])
        advantages[t] = following
    return advantages


class Batch(NamedTuple):
    """Transitions of a rollout, flattened to ``[batch, …]``."""

    features: Tensor
    masks: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Rollout:
    """Buffer of ``T`` steps of ``n`` environments; observations are stored normalised, as acted upon."""

    def __init__(self, n_steps: int, n_envs: int, obs_dim: int, n_actions: int) -> None:
        shape = (n_steps, n_envs)
        self.features = torch.zeros(*shape, obs_dim)
        self.masks = torch.zeros(*shape, n_actions, dtype=torch.bool)
        self.actions = torch.zeros(shape, dtype=torch.int64)
        self.log_probs, self.values, self.rewards = (torch.zeros(shape) for _ in range(3))
        self.next_values, self.advantages, self.returns = (torch.zeros(shape) for _ in range(3))
        self.terminated, self.truncated = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))

    def finish(self, last_values: Tensor, gamma: float, gae_lambda: float) -> None:
        """Fill in advantages and returns.

        Args:
            last_values: Value of the observation after the last step, ``[n]``. `next_values` must
                already hold the values of final observations where `truncated`.
        """
        following = torch.cat([self.values[1:], last_values.unsqueeze(0)])
        self.next_values = torch.where(self.truncated, self.next_values, following)
        self.advantages = compute_gae(
            self.rewards, self.values, self.next_values, self.terminated, self.truncated, gamma, gae_lambda
        )
        self.returns = self.advantages + self.values

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """All transitions once, in random order; the last batch may be smaller."""
        flat = [getattr(self, name).flatten(0, 1) for name in Batch._fields]
        order = torch.randperm(flat[0].shape[0], generator=generator)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield Batch(*(tensor[rows] for tensor in flat))
