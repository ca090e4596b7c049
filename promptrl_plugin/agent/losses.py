"""The loss of PPO: clipped surrogate, value and entropy terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from promptrl_plugin.agent.buffer import Batch

__all__ = ["Losses", "ppo_losses"]


class Losses(NamedTuple):
    """Loss terms (means over the batch) and what is watched besides, all scalars."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor
    reference_kl: Tensor


def ppo_losses(
    log_probs: Tensor,
    values: Tensor,
    entropy: Tensor,
    batch: Batch,
    *,
    clip_range: float,
    vf_coef: float,
    ent_coef: float,
) -> Losses:
    """Clipped surrogate objective (arXiv 1707.06347, eq. 7 and 9), as a loss to be minimised.

    ``L = −E[min(ρA, clip(ρ, 1−ε, 1+ε)·A)] + c_v·E[(V − R)²] − c_e·E[H]`` with
    ``ρ = π(a|s)/π_old(a|s)``. The KL estimate is ``E[(ρ − 1) − ln ρ]``: unbiased, never negative, of low
    variance (J. Schulman 2020, "Approximating KL divergence", k3).

    Args:
        log_probs, values, entropy: Of the current policy, ``[batch]``.
        batch: What was collected; its advantages are used as they are.
    """
    log_ratio = log_probs - batch.log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    policy = -torch.min(ratio * batch.advantages, clipped * batch.advantages).mean()
    value = (values - batch.returns).pow(2).mean()
    total = policy + vf_coef * value - ent_coef * entropy.mean()
    with torch.no_grad():
        approx_kl = (ratio - 1.0 - log_ratio).mean()
        clip_fraction = ((ratio - 1.0).abs() > clip_range).float().mean()
    return Losses(total, policy, value, entropy.mean(), approx_kl, clip_fraction, torch.zeros(()))
