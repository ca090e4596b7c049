"""Behaviour cloning of demonstrations into a policy, before PPO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptrl_plugin.agent.network import ActorCritic
from promptrl_plugin.config import WarmStartConfig

__all__ = ["Demonstrations", "clone"]


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Steps worth imitating, e.g. the best cached path of each train task.

    Attributes:
        observations: Raw, float32 ``[n, obs_dim]``.
        masks: Allowed actions, bool ``[n, n_actions]``.
        actions: Action to imitate, int64 ``[n]``; each must be allowed by its mask.
        weights: Weight of each step's cloning loss, ``[n]``, not negative; None for equal weights.
        returns: Return from each step on, ``[n]``; where given, the value head is fitted to them.

    Raises:
        ValueError: Lengths differ, an action is masked, or a weight is negative.
    """

    observations: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]
    actions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.floating] | None = None
    returns: npt.NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        n = len(self.observations)
        others = (self.masks, self.actions, self.weights, self.returns)
        if any(len(a) != n for a in others if a is not None):
            raise ValueError(f"every array of {n} demonstrations needs {n} rows")
        if not self.masks[np.arange(n), self.actions].all():
            raise ValueError("a demonstrated action is masked")
        if self.weights is not None and (self.weights.min(initial=0) < 0 or (n and not self.weights.any())):
            raise ValueError("weights must not be negative, nor all 0")

    def __len__(self) -> int:
        return len(self.observations)


def clone(
    policy: ActorCritic, demonstrations: Demonstrations, config: WarmStartConfig, *, seed: int, vf_coef: float
) -> dict[str, float]:
    """Fit the policy to demonstrations by weighted cross-entropy on masked logits, in place.

    The target keeps a share ``config.smoothing`` spread evenly over the allowed actions (label
    smoothing, Szegedy et al. 2016, arXiv 1512.00567), so that the clone still explores. The
    observations enter the policy's normaliser first, so that PPO goes on with the same scale.

    Args:
        policy: Changed in place; its normaliser must not be frozen.
        demonstrations: At least one step, unless `n_epochs` is 0.
        config: Epochs, batch size, learning rate, smoothing.
        seed: Of the minibatch order.
        vf_coef: Weight of the squared error of the value head (`PPOConfig.vf_coef`).

    Returns:
        ``warm_start/loss`` and ``warm_start/value_loss`` of the last epoch, and ``warm_start/agreement``,
        the share of steps whose demonstrated action is the likeliest afterwards. Empty for 0 epochs.

    Raises:
        ValueError: There are no demonstrations.
    """
    if config.n_epochs == 0:
        return {}
    if not len(demonstrations):
        raise ValueError("there is nothing to clone")
    generator = torch.Generator().manual_seed(seed)
    data = _Tensors.of(policy, demonstrations)
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    losses: list[tuple[float, float]] = []
    for _ in range(config.n_epochs):
        losses = []
        order = torch.randperm(len(demonstrations), generator=generator)
        for start in range(0, len(order), config.batch_size):
            cross_entropy, value = _losses(policy, data, order[start : start + config.batch_size], config.smoothing)
            optimizer.zero_grad()
            (cross_entropy + vf_coef * value).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append((float(cross_entropy.detach()), float(value.detach())))
    loss, value_loss = np.mean(losses, axis=0).tolist()
    agreement = float((policy.act(demonstrations.observations, demonstrations.masks) == demonstrations.actions).mean())
    return {"warm_start/loss": loss, "warm_start/value_loss": value_loss, "warm_start/agreement": agreement}


@dataclass(frozen=True, slots=True)
class _Tensors:
    features: Tensor
    masks: Tensor
    actions: Tensor
    weights: Tensor
    returns: Tensor | None

    @classmethod
    def of(cls, policy: ActorCritic, demonstrations: Demonstrations) -> _Tensors:
        raw = torch.as_tensor(demonstrations.observations)
        policy.normalizer.update(raw)
        weights = demonstrations.weights
        scaled = np.ones(len(raw)) if weights is None else weights / weights.mean()
        returns = demonstrations.returns
        return cls(
            policy.normalizer(raw),
            torch.as_tensor(demonstrations.masks),
            torch.as_tensor(demonstrations.actions),
            torch.as_tensor(scaled, dtype=torch.float32),
            None if returns is None else torch.as_tensor(returns, dtype=torch.float32),
        )


def _losses(policy: ActorCritic, data: _Tensors, rows: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Smoothed, weighted cross-entropy and squared error of the values on some rows."""
    features, masks = data.features[rows], data.masks[rows]
    log_probs, values = policy(features, masks)
    chosen = log_probs.gather(1, data.actions[rows].unsqueeze(1)).squeeze(1)
    spread = torch.where(masks, log_probs, 0.0).sum(dim=1) / masks.sum(dim=1)
    cross_entropy = -(data.weights[rows] * ((1.0 - smoothing) * chosen + smoothing * spread)).mean()
    if data.returns is None:
        return cross_entropy, torch.zeros(())
    return cross_entropy, nn.functional.mse_loss(values, data.returns[rows])
