from pathlib import Path

import numpy as np
import pytest
import torch

from promptrl_plugin.agent.network import ActorCritic, masked_entropy, masked_log_probs, sample
from promptrl_plugin.config import PPOConfig


def network(seed: int = 0, obs_dim: int = 5, n_actions: int = 7) -> ActorCritic:
    return ActorCritic(obs_dim, n_actions, PPOConfig(), torch.Generator().manual_seed(seed))


def random_masks(n: int, n_actions: int, seed: int = 0) -> torch.Tensor:
    masks = torch.rand(n, n_actions, generator=torch.Generator().manual_seed(seed)) < 0.4
    masks[torch.arange(n), torch.arange(n) % n_actions] = True
    return masks


def test_masked_distribution_is_the_softmax_over_the_allowed_actions() -> None:
    logits, masks = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 10, random_masks(50, 7)
    probs = masked_log_probs(logits, masks).exp()
    assert torch.equal(probs[~masks], torch.zeros_like(probs[~masks]))
    for row, mask, got in zip(logits, masks, probs, strict=True):
        torch.testing.assert_close(got[mask], torch.softmax(row[mask], dim=0))


def test_masked_entropy_matches_torch_on_the_allowed_actions() -> None:
    logits, masks = torch.randn(50, 7, generator=torch.Generator().manual_seed(2)), random_masks(50, 7, 3)
    entropy = masked_entropy(masked_log_probs(logits, masks), masks)
    for row, mask, got in zip(logits, masks, entropy, strict=True):
        torch.testing.assert_close(got, torch.distributions.Categorical(logits=row[mask]).entropy())


def test_no_gradient_reaches_a_masked_logit() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = random_masks(4, 6)
    log_probs = masked_log_probs(logits, masks)
    (log_probs[torch.arange(4), torch.arange(4)].sum() + masked_entropy(log_probs, masks).sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~masks] == 0).all()
    assert (logits.grad[masks] != 0).any()


def test_masked_actions_are_never_sampled() -> None:
    masks = random_masks(8, 7, 5)
    log_probs = masked_log_probs(torch.randn(8, 7, generator=torch.Generator().manual_seed(4)) * 5, masks)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        assert masks[torch.arange(8), sample(log_probs, generator)].all()


def test_sampling_follows_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.3, 0.2])
    drawn = sample(probs.log().expand(20_000, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.bincount(drawn) / 20_000, probs, atol=0.015, rtol=0)


def test_a_row_without_an_allowed_action_is_an_error() -> None:
    masks = torch.ones(3, 4, dtype=torch.bool)
    masks[1] = False
    with pytest.raises(ValueError, match="row 1 of the action masks"):
        masked_log_probs(torch.zeros(3, 4), masks)


def test_masks_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="action masks"):
        masked_log_probs(torch.zeros(3, 4), torch.ones(1, 4, dtype=torch.bool))


def test_initial_weights_are_orthogonal_and_the_first_policy_nearly_uniform() -> None:
    net = network(obs_dim=20)
    weight = net.actor[0].weight.detach()  # [64, 20]: orthogonal columns of length √2
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(20), atol=1e-5, rtol=0)
    probs = net.probabilities(np.random.default_rng(0).normal(size=(30, 20)), np.ones((30, 7), dtype=bool))
    assert np.abs(probs - 1 / 7).max() < 0.02


def test_initial_weights_depend_on_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, c = network(1).tensors(), network(1).tensors(), network(2).tensors()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["actor.0.weight"], c["actor.0.weight"])


def test_act_takes_the_likeliest_allowed_action() -> None:
    net = network()
    observations, masks = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32), random_masks(40, 7).numpy()
    actions = net.act(observations, masks)
    assert np.array_equal(actions, net.probabilities(observations, masks).argmax(axis=1))
    assert masks[np.arange(40), actions].all()


def test_a_saved_policy_acts_alike(tmp_path: Path) -> None:
    net = network(3)
    observations = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 5)).astype(np.float32)
    net.normalizer.update(torch.as_tensor(observations))
    net.save(tmp_path / "policy.safetensors")
    again = ActorCritic.load(tmp_path / "policy.safetensors")
    masks = random_masks(40, 7).numpy()
    assert np.array_equal(again.probabilities(observations, masks), net.probabilities(observations, masks))


def test_tensors_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not of this network"):
        network().load_tensors(network(obs_dim=6).tensors())
