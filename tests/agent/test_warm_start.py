import dataclasses

import numpy as np
import pytest
import torch
from masked_envs import MaskedIdentityEnv

from promptrl_plugin.agent.network import ActorCritic
from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.agent.warm_start import Demonstrations, clone
from promptrl_plugin.config import PPOConfig, WarmStartConfig

CONFIG = WarmStartConfig(n_epochs=40, batch_size=32, learning_rate=5e-3, smoothing=0.1)


def demonstrations(n: int = 256, seed: int = 0) -> Demonstrations:
    env = MaskedIdentityEnv(n)
    observations, _ = env.reset(seed=seed)
    masks = env.action_masks()
    return Demonstrations(observations, masks, observations.argmax(axis=1), returns=1.0 + observations @ np.arange(6.0))


def policy(seed: int = 0) -> ActorCritic:
    return ActorCritic(6, 6, PPOConfig(), torch.Generator().manual_seed(seed))


def test_it_clones_the_demonstrated_actions_to_unseen_masks_and_fits_the_values() -> None:
    net = policy()
    metrics = clone(net, demonstrations(), CONFIG, seed=0, vf_coef=0.5)
    assert metrics["warm_start/agreement"] == 1.0
    unseen = demonstrations(seed=1)
    assert np.array_equal(net.act(unseen.observations, unseen.masks), unseen.actions)
    values = net.value(net.normalizer(torch.as_tensor(unseen.observations))).detach().numpy()
    np.testing.assert_allclose(values, unseen.returns, atol=0.3)


def test_smoothing_keeps_the_clone_exploring() -> None:
    sharp, soft = policy(), policy()
    demos = demonstrations()
    clone(sharp, demos, dataclasses.replace(CONFIG, smoothing=0.0), seed=0, vf_coef=0.5)
    clone(soft, demos, CONFIG, seed=0, vf_coef=0.5)
    rows = np.arange(len(demos))
    chosen = [net.probabilities(demos.observations, demos.masks)[rows, demos.actions].mean() for net in (sharp, soft)]
    assert chosen[0] > 0.99
    assert chosen[1] == pytest.approx(0.9 + 0.1 / 3, abs=0.02)  # three of six actions are allowed


def test_weights_decide_between_contradicting_demonstrations() -> None:
    observations, masks = np.eye(6, dtype=np.float32)[np.zeros(40, dtype=int)], np.ones((40, 6), dtype=bool)
    actions = np.array([2, 4] * 20)
    weights = np.where(actions == 4, 3.0, 1.0)
    net = policy()
    smoothless = dataclasses.replace(CONFIG, smoothing=0.0, batch_size=40)
    clone(net, Demonstrations(observations, masks, actions, weights), smoothless, seed=0, vf_coef=0.5)
    probs = net.probabilities(observations[:1], masks[:1])[0]
    assert probs[4] == pytest.approx(0.75, abs=0.03)
    assert probs[2] == pytest.approx(0.25, abs=0.03)


def test_without_returns_the_value_network_stays() -> None:
    net = policy()
    before = net.tensors()
    clone(net, dataclasses.replace(demonstrations(), returns=None), CONFIG, seed=0, vf_coef=0.5)
    after = net.tensors()
    assert all(np.array_equal(before[k], after[k]) for k in before if k.startswith("critic"))
    assert not np.array_equal(before["actor.0.weight"], after["actor.0.weight"])


def test_the_normaliser_sees_the_demonstrations() -> None:
    net, demos = policy(), demonstrations()
    clone(net, demos, dataclasses.replace(CONFIG, n_epochs=1), seed=0, vf_coef=0.5)
    assert float(net.normalizer.count) == len(demos)
    np.testing.assert_allclose(net.normalizer.mean.numpy(), demos.observations.mean(axis=0))


def test_cloning_is_a_function_of_its_seed() -> None:
    runs = []
    for seed in (3, 3, 4):
        net = policy()
        clone(net, demonstrations(), dataclasses.replace(CONFIG, n_epochs=2), seed=seed, vf_coef=0.5)
        runs.append(net.tensors()["actor.0.weight"])
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_ppo_goes_on_from_a_cloned_policy() -> None:
    net = policy()
    clone(net, demonstrations(), CONFIG, seed=0, vf_coef=0.5)
    history: list[dict[str, float]] = []
    config = PPOConfig(total_steps=512, n_envs=16, n_steps=16)
    PPO(MaskedIdentityEnv(16), config, 0, policy=net, on_rollout=history.append).learn()
    assert history[0]["rollout/reward"] > 0.85
    assert history[-1]["rollout/reward"] > 0.85


def test_zero_epochs_switch_it_off() -> None:
    net = policy()
    before = net.tensors()
    assert clone(net, demonstrations(), dataclasses.replace(CONFIG, n_epochs=0), seed=0, vf_coef=0.5) == {}
    assert all(np.array_equal(before[k], v) for k, v in net.tensors().items())


def test_bad_demonstrations_are_refused() -> None:
    d = demonstrations(4)
    forbidden = d.masks.copy()
    forbidden[2, d.actions[2]] = False
    with pytest.raises(ValueError, match="is masked"):
        Demonstrations(d.observations, forbidden, d.actions)
    with pytest.raises(ValueError, match="4 rows"):
        Demonstrations(d.observations, d.masks, d.actions[:3])
    with pytest.raises(ValueError, match="negative"):
        Demonstrations(d.observations, d.masks, d.actions, weights=np.array([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="nothing to clone"):
        clone(policy(), demonstrations(0), CONFIG, seed=0, vf_coef=0.5)
