"""Starts a policy near a demonstration instead of at random: behaviour cloning with soft targets.

From a uniform policy, a training run of a few thousand generations hardly gets beyond what any sensible fixed
sequence of operators does at once. So the agent first learns to act as such a sequence half of the time and at
random otherwise (behaviour cloning, Pomerleau 1991, "Efficient training of artificial neural networks for
autonomous navigation"), and its critic what that is worth; PPO goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from promptrl_plugin.agent.buffer import compute_gae
from promptrl_plugin.agent.network import sample
from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.config import WarmStartConfig

__all__ = ["Demonstration", "clone"]

Demonstration = Callable[[], npt.NDArray[np.int64]]
"""The action demonstrated in each sub-environment now, int64 ``[n]``; −1 where there is none."""


@dataclass(frozen=True, slots=True)
class _Step:
    features: torch.Tensor
    masks: torch.Tensor
    targets: torch.Tensor
    rewards: torch.Tensor
    ended: torch.Tensor


def clone(agent: PPO, demonstration: Demonstration, config: WarmStartConfig) -> float:
    """Collect steps of the demonstration mixed with random choice, and fit policy and critic to them.

    Args:
        agent: Not trained yet. Its environments are reset, its normaliser is fitted.
        demonstration: See `Demonstration`.
        config: How much.

    Returns:
        Mean Kullback–Leibler divergence, in nats, of the policy from what it was to learn.
    """
    steps = _collect(agent, demonstration, config)
    data = [torch.cat(parts) for parts in zip(*((s.features, s.masks, s.targets) for s in steps), strict=True)]
    rewards, ended = torch.stack([s.rewards for s in steps]), torch.stack([s.ended for s in steps])
    zeros, never = torch.zeros_like(rewards), torch.zeros_like(ended)
    returns = compute_gae(rewards, zeros, zeros, ended, never, agent.config.gamma, 1.0).flatten()
    # An episode that the last step cut off has no return yet.
    whole = ended.flip(0).cumsum(0).flip(0).flatten() > 0
    divergence = 0.0
    for _ in range(config.epochs):
        total = 0.0
        order = torch.randperm(len(returns), generator=agent.generator)
        for start in range(0, len(order), agent.config.batch_size):
            rows = order[start : start + agent.config.batch_size]
            features, masks, targets = (tensor[rows] for tensor in data)
            log_probs, values = agent.policy(features, masks)
            apart = torch.where(targets > 0, targets * (targets.clamp(min=1e-12).log() - log_probs), 0.0).sum(dim=-1)
            errors = (values - returns[rows]).pow(2)[whole[rows]]
            agent.update(apart.mean() + agent.config.vf_coef * (errors.mean() if len(errors) else 0.0))
            total += float(apart.detach().sum())
        divergence = total / len(returns)
    return divergence


@torch.no_grad()
def _collect(agent: PPO, demonstration: Demonstration, config: WarmStartConfig) -> list[_Step]:
    env, normalizer = agent.env, agent.policy.normalizer
    observations, _ = env.reset(seed=agent.seed)
    raw, collected = [], []
    for _ in range(-(-config.steps // env.num_envs)):
        masks, shown = torch.as_tensor(env.action_masks()), torch.as_tensor(demonstration())
        targets = masks / masks.sum(dim=-1, keepdim=True)
        known = shown >= 0
        targets[known] *= 1.0 - config.weight
        targets[known, shown[known]] += config.weight
        raw.append(torch.as_tensor(observations))
        normalizer.update(raw[-1])
        actions = sample(targets.log(), agent.generator)
        observations, rewards, terminated, truncated, _ = env.step(actions.numpy())
        collected.append((masks, targets, torch.as_tensor(rewards).float(), torch.as_tensor(terminated | truncated)))
    return [_Step(normalizer(r), *rest) for r, rest in zip(raw, collected, strict=True)]
