"""Behaviour cloning before PPO."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from masked_envs import MaskedIdentityEnv

from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.agent.warm_start import clone
from promptrl_plugin.config import PPOConfig, WarmStartConfig

N_ENVS = 16


def agent(seed: int = 0) -> tuple[PPO, MaskedIdentityEnv]:
    env = MaskedIdentityEnv(N_ENVS)
    config = PPOConfig(n_envs=N_ENVS, n_steps=8, total_steps=128, learning_rate=3e-3, hidden_sizes=(32,))
    return PPO(env, config, seed), env


def probabilities(ppo: PPO, env: MaskedIdentityEnv) -> tuple[np.ndarray, np.ndarray]:
    env.reset(seed=9)
    return ppo.policy.probabilities(env._observations(), env.action_masks()), env.action_masks()


def test_the_policy_follows_the_demonstration_and_goes_on_exploring() -> None:
    ppo, env = agent()
    divergence = clone(ppo, lambda: env.states.copy(), WarmStartConfig(weight=0.6, steps=512, epochs=40))
    assert divergence < 0.05
    probs, masks = probabilities(ppo, env)
    rows = np.arange(N_ENVS)
    free = masks.sum(axis=1)
    wanted = 0.6 + 0.4 / free
    assert np.allclose(probs[rows, env.states], wanted, atol=0.1)
    others = masks.copy()
    others[rows, env.states] = False
    assert np.allclose(probs[others], 0.4 / free[0], atol=0.1)
    assert env.taken_masked == 0
    assert ppo.num_timesteps == 0


def test_where_nothing_is_demonstrated_the_policy_stays_uniform() -> None:
    ppo, env = agent()
    clone(ppo, lambda: np.full(N_ENVS, -1), WarmStartConfig(steps=256, epochs=10))
    probs, masks = probabilities(ppo, env)
    assert np.allclose(probs[masks], 1 / masks.sum(axis=1)[0], atol=0.05)


def test_the_critic_learns_the_returns_of_whole_episodes() -> None:
    ppo, env = agent()
    clone(ppo, lambda: env.states.copy(), WarmStartConfig(weight=1.0, steps=2048, epochs=60))
    env.reset(seed=9)
    values = ppo.policy.value(ppo.policy.normalizer(torch.as_tensor(env._observations())))
    # every step pays 1; 1 to 8 of them are left, and the observation does not tell how many
    assert float(values.detach().mean()) == pytest.approx(4.5, abs=0.8)


def test_the_same_seed_gives_the_same_policy() -> None:
    first, second = agent(3), agent(3)
    for ppo, env in (first, second):
        clone(ppo, lambda env=env: env.states.copy(), WarmStartConfig(steps=64, epochs=2))
    one, two = first[0].policy.tensors(), second[0].policy.tensors()
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[k], two[k]) for k in one)
