import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_envs import MaskedIdentityEnv
from stable_baselines3.common.buffers import RolloutBuffer

from promptrl_plugin.agent.buffer import Batch, Rollout, compute_gae
from promptrl_plugin.agent.losses import Losses, ppo_losses
from promptrl_plugin.agent.network import ActorCritic, masked_divergence, masked_entropy, masked_log_probs
from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.config import PPOConfig
from promptrl_plugin.errors import ConfigError

SMALL = PPOConfig(total_steps=6 * 64, n_envs=8, n_steps=8, batch_size=24, n_epochs=2, target_kl=None)


def random_steps(seed: int, t: int, n: int, p_done: float = 0.2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    done = rng.random((t, n)) < p_done
    return {
        "rewards": rng.normal(size=(t, n)).astype(np.float32),
        "values": rng.normal(size=(t, n)).astype(np.float32),
        "final_values": rng.normal(size=(t, n)).astype(np.float32),
        "last_values": rng.normal(size=n).astype(np.float32),
        "terminated": done & (rng.random((t, n)) < 0.5),
        "done": done,
    }


def sb3(s: dict[str, np.ndarray], gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of Stable-Baselines3; its PPO adds γ·V(final) to the reward of a truncated step."""
    import gymnasium

    t, n = s["rewards"].shape
    box, discrete = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)
    buffer = RolloutBuffer(t, box, discrete, gae_lambda=lam, gamma=gamma, n_envs=n)
    truncated = s["done"] & ~s["terminated"]
    starts = np.zeros(n)
    for i in range(t):
        reward = s["rewards"][i] + gamma * s["final_values"][i] * truncated[i]
        value = torch.as_tensor(s["values"][i])
        buffer.add(np.zeros((n, 1)), np.zeros((n, 1)), reward, starts, value, torch.zeros(n))
        starts = s["done"][i].astype(np.float32)
    buffer.compute_returns_and_advantage(torch.as_tensor(s["last_values"]), s["done"][-1])
    return buffer.advantages, buffer.returns


@pytest.fixture
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_parameters_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    """Over so many features, matrix products on two threads round otherwise than on one."""
    config = dataclasses.replace(SMALL, total_steps=3 * 4 * 96, n_envs=96, n_steps=4, batch_size=64, n_epochs=4)
    learned = []
    for n in (1, 2):
        torch.set_num_threads(n)
        learned.append(PPO(MaskedIdentityEnv(96, n_actions=120), config, 0).learn().policy.tensors())
        assert torch.get_num_threads() == n
    for name, values in learned[0].items():
        np.testing.assert_array_equal(values, learned[1][name], err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_advantages_and_returns_are_those_of_stable_baselines3(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    gamma, lam = rng.uniform(0.5, 1.0, size=2)
    s = random_steps(seed, t=int(rng.integers(1, 40)), n=int(rng.integers(1, 6)), p_done=float(rng.choice([0, 0.2, 1])))
    rollout = Rollout(*s["rewards"].shape, obs_dim=1, n_actions=2)
    rollout.rewards, rollout.values = torch.as_tensor(s["rewards"]), torch.as_tensor(s["values"])
    rollout.terminated = torch.as_tensor(s["terminated"])
    rollout.truncated = torch.as_tensor(s["done"] & ~s["terminated"])
    rollout.next_values = torch.as_tensor(s["final_values"])
    rollout.finish(torch.as_tensor(s["last_values"]), gamma, lam)
    advantages, returns = sb3(s, gamma, lam)
    np.testing.assert_allclose(rollout.advantages.numpy(), advantages, atol=2e-5)
    np.testing.assert_allclose(rollout.returns.numpy(), returns, atol=2e-5)


def test_termination_and_truncation_differ_by_the_bootstrap_alone() -> None:
    one = torch.ones(1, 1)
    yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    terminated = compute_gae(one, 2 * one, 5 * one, yes, no, 0.9, 0.95)
    truncated = compute_gae(one, 2 * one, 5 * one, no, yes, 0.9, 0.95)
    assert float(terminated) == pytest.approx(1 - 2)
    assert float(truncated) == pytest.approx(1 + 0.9 * 5 - 2)


def test_a_rollout_bootstraps_truncated_episodes_from_their_own_last_observation() -> None:
    env = MaskedIdentityEnv(8, length=5)
    agent = PPO(env, SMALL, seed=0)
    rollout, _ = agent._collect(agent.live)
    cut = rollout.truncated.nonzero()
    assert len(cut) == 6  # sub-environments 1, 3, 5, 7 from steps 1, 3, 0, 2 of an episode, 8 steps each
    finals = [obs for obs, i in zip(env.final_observations, rows_done(rollout), strict=True) if i % 2]
    with torch.no_grad():
        wanted = agent.policy.value(torch.as_tensor(np.stack(finals)))  # binary features pass unchanged
    torch.testing.assert_close(rollout.next_values[rollout.truncated], wanted)
    assert (rollout.terminated & rollout.truncated).sum() == 0


def rows_done(rollout: Rollout) -> list[int]:
    return (rollout.terminated | rollout.truncated).nonzero()[:, 1].tolist()


def batch(**fields: list[float]) -> Batch:
    tensors = {k: torch.tensor(v) for k, v in fields.items()}
    n = len(tensors["advantages"])
    empty = dict.fromkeys(Batch._fields, torch.zeros(n))
    return Batch(**{**empty, **tensors})


def test_loss_terms_match_a_hand_computation() -> None:
    # ratios 1.5, 1.5, 0.5, 0.5, 1.1 at ε = 0.2 → the clip binds for the first (A>0) and the fourth (A<0)
    old = torch.log(torch.tensor([0.2, 0.2, 0.4, 0.4, 0.5]))
    new = torch.log(torch.tensor([0.3, 0.3, 0.2, 0.2, 0.55]))
    b = batch(log_probs=old.tolist(), advantages=[1.0, -1.0, 2.0, -2.0, 3.0], returns=[0.0, 1.0, 2.0, 0.0, 0.0])
    values, entropy = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0])
    losses = ppo_losses(new, values, entropy, b, clip_range=0.2, vf_coef=0.5, ent_coef=0.1)
    surrogate = (1.2 * 1 + 1.5 * -1 + 0.5 * 2 + 0.8 * -2 + 1.1 * 3) / 5
    assert float(losses.policy) == pytest.approx(-surrogate, rel=1e-5)
    assert float(losses.value) == pytest.approx((1 + 0 + 4 + 0 + 0) / 5)
    assert float(losses.total) == pytest.approx(-surrogate + 0.5 * 1.0 - 0.1 * 0.6, rel=1e-5)
    kl = np.mean([r - 1 - np.log(r) for r in (1.5, 1.5, 0.5, 0.5, 1.1)])
    assert float(losses.approx_kl) == pytest.approx(kl, rel=1e-4)
    assert float(losses.clip_fraction) == pytest.approx(0.8)


def test_the_clip_stops_the_gradient_only_where_it_binds() -> None:
    new = torch.log(torch.tensor([0.3, 0.3, 0.2, 0.2, 0.55])).requires_grad_()
    old = torch.log(torch.tensor([0.2, 0.2, 0.4, 0.4, 0.5]))
    b = batch(log_probs=old.tolist(), advantages=[1.0, -1.0, 2.0, -2.0, 3.0])
    ppo_losses(new, torch.zeros(5), torch.zeros(5), b, clip_range=0.2, vf_coef=0.5, ent_coef=0.0).policy.backward()
    assert new.grad is not None
    np.testing.assert_allclose(new.grad.numpy(), [0.0, 1.5 / 5, -0.5 * 2 / 5, 0.0, -1.1 * 3 / 5], atol=1e-6)


def test_gradient_of_the_whole_loss_agrees_with_finite_differences() -> None:
    config = PPOConfig(hidden_sizes=(4,))
    generator = torch.Generator().manual_seed(3)
    policy = ActorCritic(3, 4, config, generator).double()
    features = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    masks = torch.tensor([[True, True, False, True]]).expand(6, 4)
    actions = torch.tensor([0, 1, 3, 0, 1, 3])
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    old = torch.log(torch.tensor([0.2, 0.5, 0.34, 0.33, 0.6, 0.1], dtype=torch.float64))
    b = Batch(features, masks, actions, old, old, advantages, advantages * 2)

    def loss() -> torch.Tensor:
        log_probs, values = policy(b.features, b.masks)
        taken = log_probs.gather(1, b.actions.unsqueeze(1)).squeeze(1)
        entropy = masked_entropy(log_probs, b.masks)
        return ppo_losses(taken, values, entropy, b, clip_range=0.2, vf_coef=0.5, ent_coef=0.05).total

    loss().backward()
    for name, parameter in policy.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, flat.numel(), 3):
            kept, h = flat[i].item(), 1e-6
            flat[i] = kept + h
            up = loss().item()
            flat[i] = kept - h
            down = loss().item()
            flat[i] = kept
            assert gradient[i].item() == pytest.approx((up - down) / (2 * h), abs=1e-7), (name, i)


def test_divergence_from_the_reference_is_of_the_allowed_actions_alone() -> None:
    masks = torch.tensor([[True, True, False], [True, False, False]])
    mine = masked_log_probs(torch.log(torch.tensor([[0.75, 0.25, 9.0], [1.0, 5.0, 5.0]])), masks)
    reference = masked_log_probs(torch.log(torch.tensor([[0.5, 0.5, 1.0], [3.0, 1.0, 1.0]])), masks)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert masked_divergence(mine, reference, masks).tolist() == pytest.approx([expected, 0.0])


def test_a_reference_holds_the_policy_back() -> None:
    moved = {}
    for coef in (0.0, 100.0):
        agent = PPO(MaskedIdentityEnv(8), dataclasses.replace(SMALL, reference_kl_coef=coef), 7)
        agent.anchor()
        begun = copy.deepcopy(agent.policy)
        rows: list[dict[str, float]] = []
        agent.on_rollout = rows.append  # type: ignore[assignment]
        agent.learn()
        assert (agent.reference is not None) == (coef > 0)
        observations = torch.as_tensor(agent.live.observations)
        masks = torch.as_tensor(agent.env.action_masks())
        features = agent.policy.normalizer(observations)
        with torch.no_grad():
            apart = masked_divergence(agent.policy(features, masks)[0], begun(features, masks)[0], masks)
        moved[coef] = float(apart.mean())
        assert (rows[-1]["train/reference_kl"] > 0) == (coef > 0)
    assert moved[100.0] < 0.1 * moved[0.0]


def test_minibatches_visit_every_transition_once() -> None:
    rollout = Rollout(5, 4, obs_dim=1, n_actions=2)
    rollout.returns = torch.arange(20.0).reshape(5, 4)
    batches = list(rollout.minibatches(8, torch.Generator().manual_seed(0)))
    assert [len(b.returns) for b in batches] == [8, 8, 4]
    seen = torch.cat([b.returns for b in batches])
    assert not torch.equal(seen, torch.arange(20.0))
    assert sorted(seen.tolist()) == list(range(20))


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_the_masked_identity_task(seed: int) -> None:
    config = PPOConfig(total_steps=6144, n_envs=16, n_steps=32, learning_rate=2e-3, gamma=0.5, target_kl=None)
    env = MaskedIdentityEnv(16)
    history: list[dict[str, float]] = []
    agent = PPO(env, config, seed, on_rollout=history.append).learn()
    assert history[0]["rollout/reward"] < 0.5
    assert history[-1]["rollout/reward"] > 0.95
    assert env.taken_masked == 0
    test = MaskedIdentityEnv(16)
    observations, _ = test.reset(seed=99)
    rewards = []
    for _ in range(50):
        observations, reward, *_ = test.step(agent.predict(observations, test.action_masks()))
        rewards.append(reward.mean())
    assert np.mean(rewards) > 0.95
    assert test.taken_masked == 0


def test_schedules_of_learning_rate_and_entropy_are_linear() -> None:
    history: list[dict[str, float]] = []
    config = dataclasses.replace(SMALL, ent_coef_start=0.06, ent_coef_end=0.0, learning_rate=6e-4)
    PPO(MaskedIdentityEnv(8), config, 0, on_rollout=history.append).learn()
    assert [h["steps"] for h in history] == [64, 128, 192, 256, 320, 384]
    np.testing.assert_allclose([h["train/learning_rate"] for h in history], [6e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4])
    np.testing.assert_allclose([h["train/ent_coef"] for h in history], [0.06, 0.05, 0.04, 0.03, 0.02, 0.01])


def test_the_learning_rate_of_the_schedule_is_the_one_used() -> None:
    agent = PPO(MaskedIdentityEnv(8), SMALL, 0)
    rollout, _ = agent._collect(agent.live)
    before = agent.policy.tensors()
    agent._train(rollout, 0.0, 0.01)
    assert all(np.array_equal(before[k], v) for k, v in agent.policy.tensors().items())


@pytest.mark.parametrize("target", [0.002, 0.01])
def test_the_update_ends_before_the_first_minibatch_beyond_the_target_kl(target: float) -> None:
    config = dataclasses.replace(SMALL, n_epochs=20, target_kl=target)
    agent = PPO(MaskedIdentityEnv(8), config, 0)
    rollout, _ = agent._collect(agent.live)
    kls: list[float] = []
    losses = agent._losses

    def recorded(batch: Batch, ent_coef: float) -> Losses:
        out = losses(batch, ent_coef)
        kls.append(float(out.approx_kl))
        return out

    agent._losses = recorded  # type: ignore[method-assign]
    metrics = agent._train(rollout, 3e-3, 0.01)
    assert metrics["train/kl_stop"] == 1
    assert metrics["train/updates"] == len(kls) - 1 < 20 * 3
    assert max(kls[:-1]) <= 1.5 * target < kls[-1]


def test_without_a_target_kl_every_epoch_is_run() -> None:
    agent = PPO(MaskedIdentityEnv(8), dataclasses.replace(SMALL, n_epochs=20), 0)
    rollout, _ = agent._collect(agent.live)
    metrics = agent._train(rollout, 3e-3, 0.01)
    assert (metrics["train/updates"], metrics["train/kl_stop"]) == (20 * 3, 0)


def test_the_policy_stays_within_the_target_kl_of_the_collecting_one() -> None:
    config = dataclasses.replace(SMALL, n_epochs=50, target_kl=0.01, batch_size=64)
    agent = PPO(MaskedIdentityEnv(8), config, 0)
    rollout, _ = agent._collect(agent.live)
    agent._train(rollout, 1e-3, 0.0)
    whole = next(rollout.minibatches(64, torch.Generator().manual_seed(0)))
    assert 0.001 < float(agent._losses(whole, 0.0).approx_kl) < 0.02


def test_gradients_are_clipped() -> None:
    agent = PPO(MaskedIdentityEnv(8), dataclasses.replace(SMALL, max_grad_norm=1e-3), 0)
    rollout, _ = agent._collect(agent.live)
    agent._train(rollout, 1e-3, 0.0)
    norms = [p.grad.norm() for p in agent.policy.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_advantages_are_normalised_per_minibatch_and_a_single_one_is_left_alone() -> None:
    agent = PPO(MaskedIdentityEnv(8), SMALL, 0)
    rollout, _ = agent._collect(agent.live)
    whole = next(rollout.minibatches(64, torch.Generator().manual_seed(0)))
    shifted = whole._replace(advantages=whole.advantages * 7 + 3)
    torch.testing.assert_close(agent._losses(whole, 0.0).policy, agent._losses(shifted, 0.0).policy)
    single = Batch(*(x[:1] for x in whole))
    assert float(agent._losses(single, 0.0).policy.detach()) == pytest.approx(-float(single.advantages), rel=1e-4)


def test_metrics_average_the_numbers_of_finished_episodes() -> None:
    history: list[dict[str, float]] = []
    PPO(MaskedIdentityEnv(8), SMALL, 0, on_rollout=history.append).learn()
    assert history[0]["rollout/episodes"] == 0, "the first to end are the short ones"
    assert history[-1]["rollout/episodes"] == 8
    assert history[-1]["rollout/length"] == 8
    assert history[-1]["rollout/solved"] == 1.0
    assert 0 < history[-1]["rollout/return"] <= 8
    assert "rollout/task" not in history[-1]


def test_training_feeds_the_normaliser_with_what_was_acted_upon() -> None:
    env = MaskedIdentityEnv(8)
    seen: list[np.ndarray] = []
    masks = env.action_masks
    env.action_masks = lambda: (seen.append(env._observations()), masks())[1]  # type: ignore[method-assign]
    agent = PPO(env, SMALL, 0).learn(128)
    assert float(agent.policy.normalizer.count) == 128
    np.testing.assert_allclose(agent.policy.normalizer.mean.numpy(), np.concatenate(seen).mean(axis=0), atol=1e-12)


def test_predicting_changes_nothing_that_training_depends_on() -> None:
    agent = PPO(MaskedIdentityEnv(8), SMALL, 0).learn(64)
    before = agent.state_dict()
    agent.predict(np.full((3, 6), 5.0, dtype=np.float32), np.ones((3, 6), dtype=bool))
    after = agent.state_dict()
    assert_same(before, after)


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others() -> None:
    torch.manual_seed(1)
    a = PPO(MaskedIdentityEnv(8), SMALL, 7).learn()
    torch.manual_seed(2)
    np.random.seed(5)
    b = PPO(MaskedIdentityEnv(8), SMALL, 7).learn()
    c = PPO(MaskedIdentityEnv(8), SMALL, 8).learn()
    assert_same(a.state_dict(), b.state_dict())
    assert not np.array_equal(a.policy.tensors()["actor.0.weight"], c.policy.tensors()["actor.0.weight"])


def test_training_leaves_the_global_generators_alone() -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    PPO(MaskedIdentityEnv(8), SMALL, 7).learn()
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()  # type: ignore[attr-defined]
        for k in a:
            assert_same(a[k], b[k])  # type: ignore[index]
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype  # type: ignore[attr-defined]
        assert np.array_equal(a, b)  # type: ignore[arg-type]
    else:
        assert a == b


@pytest.mark.parametrize("reference_kl_coef", [0.0, 0.5])
def test_a_resumed_run_ends_with_the_parameters_of_an_uninterrupted_one(
    reference_kl_coef: float, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, reference_kl_coef=reference_kl_coef)
    whole, first = (PPO(MaskedIdentityEnv(8), config, 11) for _ in range(2))
    whole.anchor()
    whole.learn()

    first.on_rollout = lambda metrics: metrics["rollouts"] < 3
    first.anchor()
    first.learn()
    assert first.num_timesteps == 3 * 64
    first.save_checkpoint(tmp_path / "checkpoint.safetensors")

    second = PPO(MaskedIdentityEnv(8), config, seed=999)
    second.load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert second.num_timesteps == 3 * 64
    second.learn()
    assert second.num_timesteps == whole.num_timesteps
    assert_same(whole.state_dict(), second.state_dict())
    assert whole.policy.tensors().keys() >= {"normalizer.mean", "actor.0.weight", "critic.4.bias"}


def test_a_checkpoint_of_a_run_that_has_not_begun_can_be_resumed(tmp_path: Path) -> None:
    fresh = PPO(MaskedIdentityEnv(8), SMALL, 11)
    fresh.save_checkpoint(tmp_path / "c")
    resumed = PPO(MaskedIdentityEnv(8), SMALL, 12)
    resumed.load_checkpoint(tmp_path / "c")
    assert_same(fresh.learn().state_dict(), resumed.learn().state_dict())


def test_checkpoints_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "c"
    PPO(MaskedIdentityEnv(8), SMALL, 0).learn(64).save_checkpoint(path)
    with pytest.raises(ConfigError, match="another clip_range, gamma;"):
        PPO(MaskedIdentityEnv(8), dataclasses.replace(SMALL, gamma=0.5, clip_range=0.3), 0).load_checkpoint(path)
    with pytest.raises(ConfigError, match="another action table or observation"):
        PPO(MaskedIdentityEnv(8, n_actions=7), SMALL, 0).load_checkpoint(path)
    PPO(MaskedIdentityEnv(8), dataclasses.replace(SMALL, total_steps=10_000), 0).load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="cannot resume from"):
        PPO(MaskedIdentityEnv(8), SMALL, 0).load_checkpoint(path)
    with pytest.raises(ConfigError, match="cannot resume from"):
        PPO(MaskedIdentityEnv(8), SMALL, 0).load_checkpoint(tmp_path / "absent")


def test_a_checkpoint_of_another_format_is_refused() -> None:
    state = PPO(MaskedIdentityEnv(8), SMALL, 0).state_dict()
    with pytest.raises(ConfigError, match="format 99"):
        PPO(MaskedIdentityEnv(8), SMALL, 0).load_state_dict({**state, "version": 99})


def test_misfits_of_environment_policy_and_config_are_errors() -> None:
    with pytest.raises(ValueError, match="n_envs is 8"):
        PPO(MaskedIdentityEnv(4), SMALL, 0)
    policy = ActorCritic(5, 6, SMALL, torch.Generator())
    with pytest.raises(ValueError, match="not made for 6 features"):
        PPO(MaskedIdentityEnv(8), SMALL, 0, policy=policy)


def test_a_reward_that_is_not_finite_is_an_error() -> None:
    env = MaskedIdentityEnv(8)
    step = env.step

    def broken(actions: np.ndarray) -> tuple:
        observations, rewards, *rest = step(actions)
        return observations, rewards * np.nan, *rest

    env.step = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not finite"):
        PPO(env, SMALL, 0).learn()
