"""LinUCB alone: its algebra, its masks, its batches, and a bandit that it must learn."""

from __future__ import annotations

import numpy as np

from promptrl_plugin.agent.linucb import LinUCB, mean_policy
from promptrl_plugin.config import LinUCBConfig


def all_allowed(n: int, n_actions: int) -> np.ndarray:
    return np.ones((n, n_actions), dtype=bool)


def test_theta_is_the_ridge_regression_of_each_actions_rewards() -> None:
    rng = np.random.default_rng(0)
    agent = LinUCB(3, 2, LinUCBConfig(alpha=1.0, ridge=0.7))
    seen: dict[int, list[tuple[np.ndarray, float]]] = {0: [], 1: []}
    for _ in range(12):
        observations = rng.normal(size=(4, 3)).astype(np.float32)
        actions = agent.choose(observations, all_allowed(4, 2))
        rewards = rng.normal(size=4)
        agent.reward(observations, actions, rewards)
        for o, a, r in zip(observations, actions, rewards, strict=True):
            seen[int(a)].append((np.append(o.astype(float), 1.0), r))
    for a, pairs in seen.items():
        x, r = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
        wanted = np.linalg.solve(0.7 * np.eye(4) + x.T @ x, x.T @ r)
        np.testing.assert_allclose(agent.theta[a], wanted, atol=1e-9)
    assert agent.num_timesteps == 48


def test_steps_of_somebody_else_are_learned_from_as_its_own_are() -> None:
    rng = np.random.default_rng(3)
    one, other = LinUCB(3, 2, LinUCBConfig()), LinUCB(3, 2, LinUCBConfig())
    for _ in range(5):
        observations, rewards = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4)
        actions = one.choose(observations, all_allowed(4, 2))
        one.reward(observations, actions, rewards)
        other.learn(observations, actions, rewards)
    np.testing.assert_array_equal(one.theta, other.theta)
    np.testing.assert_array_equal(one.inverse, other.inverse)
    assert one.num_timesteps == other.num_timesteps == 20


def test_the_choice_is_the_highest_upper_confidence_bound() -> None:
    agent = LinUCB(1, 2, LinUCBConfig(alpha=2.0, ridge=1.0))
    observation = np.array([[1.0]], dtype=np.float32)
    only_first = np.array([[True, False]])
    agent.reward(observation, agent.choose(observation, only_first), np.array([3.0]))
    # x = (1, 1): A_0 = I + x xᵀ, so xᵀ A_0⁻¹ x = 2/3 and θ_0ᵀx = 3 · 2/3; action 1 is unknown: 0 + 2 · √2
    first, second = 2.0 + 2.0 * np.sqrt(2 / 3), 2.0 * np.sqrt(2.0)
    assert first > second
    assert agent.choose(observation, all_allowed(1, 2)).tolist() == [0]
    bold = LinUCB(1, 2, LinUCBConfig(alpha=10.0, ridge=1.0))
    bold.reward(observation, bold.choose(observation, only_first), np.array([3.0]))
    assert bold.choose(observation, all_allowed(1, 2)).tolist() == [1]


def test_equal_rows_of_one_batch_try_different_actions() -> None:
    agent = LinUCB(2, 3, LinUCBConfig())
    observations = np.tile(np.array([[0.5, -0.5]], dtype=np.float32), (6, 1))
    assert sorted(agent.choose(observations, all_allowed(6, 3)).tolist()) == [0, 0, 1, 1, 2, 2]


def test_it_learns_which_action_pays_where_and_never_takes_a_masked_one() -> None:
    """The payoff is 1 for the action that the observation names; that action is masked half of the time."""
    rng = np.random.default_rng(1)
    agent = LinUCB(4, 4, LinUCBConfig(alpha=0.5))
    for _ in range(150):
        kinds = rng.integers(4, size=8)
        observations = np.eye(4, dtype=np.float32)[kinds]
        masks = rng.random((8, 4)) < 0.5
        masks[np.arange(8), rng.integers(4, size=8)] = True
        actions = agent.choose(observations, masks)
        assert masks[np.arange(8), actions].all()
        agent.reward(observations, actions, (actions == kinds).astype(float))
    act = mean_policy(agent.theta.astype(np.float32))
    everything = np.ones(4, dtype=bool)
    for kind in range(4):
        observation = np.eye(4, dtype=np.float32)[kind]
        assert act(observation, everything) == kind
        assert act(observation, np.arange(4) != kind) != kind
