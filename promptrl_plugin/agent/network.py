"""The actor-critic network and its masked categorical distribution."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptrl_plugin.agent.normalize import RunningNormalizer
from promptrl_plugin.agent.tensorfile import load_tree, save_tree
from promptrl_plugin.config import PPOConfig

__all__ = ["ActorCritic", "gumbel", "masked_divergence", "masked_entropy", "masked_log_probs", "one_thread", "sample"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, with results that do not depend on how many it has.

    A matrix product over several threads may round otherwise; a run that is repeated or resumed where
    ``OMP_NUM_THREADS`` differs would end with other parameters. These networks are too small to gain from more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def masked_log_probs(logits: Tensor, masks: Tensor) -> Tensor:
    """Log-probabilities of the categorical distribution restricted to the allowed actions.

    A masked logit becomes the smallest finite number of its dtype, so its probability is exactly 0 and
    no gradient flows into it (Huang & Ontañón 2020, "A closer look at invalid action masking",
    arXiv 2006.14171).

    Args:
        logits: ``[n, n_actions]``.
        masks: bool ``[n, n_actions]``, True where the action is allowed.

    Raises:
        ValueError: A row allows no action, or the shapes differ.
    """
    if logits.shape != masks.shape:
        raise ValueError(f"logits are {tuple(logits.shape)} but action masks {tuple(masks.shape)}")
    allowed = masks.any(dim=-1)
    if not bool(allowed.all()):
        raise ValueError(f"row {int((~allowed).nonzero()[0, 0])} of the action masks allows no action")
    return torch.log_softmax(logits.masked_fill(~masks, torch.finfo(logits.dtype).min), dim=-1)


def masked_entropy(log_probs: Tensor, masks: Tensor) -> Tensor:
    """Entropy in nats of each row, ``[n]``; masked actions add nothing."""
    return -torch.where(masks, log_probs.exp() * log_probs, 0.0).sum(dim=-1)


def masked_divergence(log_probs: Tensor, reference: Tensor, masks: Tensor) -> Tensor:
    """Kullback–Leibler divergence KL(π ‖ π_ref) in nats of each row, ``[n]``, from both's masked log-probabilities."""
    return torch.where(masks, log_probs.exp() * (log_probs - reference), 0.0).sum(dim=-1)


def sample(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One action a row, int64 ``[n]``, drawn with the caller's own generator."""
    return torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1)


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: ``(log_probs + noise).argmax(-1)`` is one draw a row (Gumbel 1954; Maddison et al. 2014,
    "A* sampling", arXiv 1411.0030).
    """
    uniform = torch.rand(shape, generator=generator).clamp(min=torch.finfo(torch.float32).tiny)
    return -(-uniform.log()).clamp(min=torch.finfo(torch.float32).tiny).log()


class ActorCritic(nn.Module):
    """Separate tanh networks for policy and value behind one observation normaliser.

    Weights are orthogonal with gain √2, 0.01 at the policy's head (so that the first policy is nearly
    uniform over the allowed actions) and 1 at the value's; biases are 0 (Andrychowicz et al. 2021,
    "What matters in on-policy reinforcement learning", arXiv 2006.05990).

    Args:
        obs_dim: Number of observation features.
        n_actions: Size of the action table.
        config: Network sizes and the normaliser's settings.
        generator: Source of the initial weights. torch's global generator is not touched.
    """

    @one_thread()
    def __init__(self, obs_dim: int, n_actions: int, config: PPOConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.obs_dim, self.n_actions = obs_dim, n_actions
        self.hidden_sizes = tuple(config.hidden_sizes)
        self.normalizer = RunningNormalizer(obs_dim, config.obs_clip, config.obs_min_std)
        sizes = (obs_dim, *self.hidden_sizes)
        self.actor = _mlp(sizes, n_actions, head_gain=0.01, generator=generator)
        self.critic = _mlp(sizes, 1, head_gain=1.0, generator=generator)

    @one_thread()
    def forward(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[n, n_actions]`` and values ``[n]`` of *normalised* observations.

        Raises:
            ValueError: A row of `masks` allows no action.
        """
        return masked_log_probs(self.actor(features), masks), self.value(features)

    @one_thread()
    def value(self, features: Tensor) -> Tensor:
        """Values ``[n]`` of normalised observations."""
        values: Tensor = self.critic(features).squeeze(-1)
        return values

    @torch.no_grad()
    def probabilities(self, observations: npt.ArrayLike, masks: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Action probabilities ``[n, n_actions]`` of *raw* observations ``[n, obs_dim]``."""
        probs: npt.NDArray[np.float32] = self._log_probs(observations, masks).exp().numpy()
        return probs

    @torch.no_grad()
    def act(
        self, observations: npt.ArrayLike, masks: npt.ArrayLike, generator: torch.Generator | None = None
    ) -> npt.NDArray[np.int64]:
        """Actions ``[n]`` for *raw* observations: the likeliest, or sampled where a generator is given."""
        log_probs = self._log_probs(observations, masks)
        actions = log_probs.argmax(dim=-1) if generator is None else sample(log_probs, generator)
        out: npt.NDArray[np.int64] = actions.numpy()
        return out

    @one_thread()
    def _log_probs(self, observations: npt.ArrayLike, masks: npt.ArrayLike) -> Tensor:
        features = self.normalizer(torch.as_tensor(np.asarray(observations)))
        return masked_log_probs(self.actor(features), torch.as_tensor(np.asarray(masks, dtype=bool)))

    def spec(self) -> dict[str, Any]:
        """Plain data that `from_spec` rebuilds the architecture from."""
        return {
            "obs_dim": self.obs_dim,
            "n_actions": self.n_actions,
            "hidden_sizes": list(self.hidden_sizes),
            "obs_clip": self.normalizer.clip,
            "obs_min_std": self.normalizer.min_std,
        }

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all parameters and normaliser statistics by name."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what `tensors` returned.

        Raises:
            ValueError: A tensor is missing, unknown, or of another shape.
        """
        try:
            self.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in tensors.items()})
        except RuntimeError as e:
            raise ValueError(f"these tensors are not of this network: {e}") from e

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> ActorCritic:
        """Rebuild a network from `spec` and `tensors`.

        Raises:
            ValueError: The tensors do not fit the architecture.
        """
        config = PPOConfig(
            hidden_sizes=tuple(spec["hidden_sizes"]), obs_clip=spec["obs_clip"], obs_min_std=spec["obs_min_std"]
        )
        policy = cls(spec["obs_dim"], spec["n_actions"], config, torch.Generator())
        policy.load_tensors(tensors)
        return policy

    def save(self, path: Path) -> None:
        """Write architecture, parameters and statistics to one safetensors file, atomically."""
        save_tree(path, {"spec": self.spec(), "tensors": self.tensors()})

    @classmethod
    def load(cls, path: Path) -> ActorCritic:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is damaged or not a policy.
            OSError: It cannot be read.
        """
        tree = load_tree(path)
        if not isinstance(tree, dict) or tree.keys() != {"spec", "tensors"}:
            raise ValueError(f"{path} does not hold a policy")
        return cls.from_spec(tree["spec"], tree["tensors"])


def _mlp(sizes: Sequence[int], n_out: int, head_gain: float, generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_hidden in itertools.pairwise(sizes):
        layers += [_linear(n_in, n_hidden, math.sqrt(2.0), generator), nn.Tanh()]
    return nn.Sequential(*layers, _linear(sizes[-1], n_out, head_gain, generator))


def _linear(n_in: int, n_out: int, gain: float, generator: torch.Generator) -> nn.Linear:
    # skip_init: nn.Linear's own initialisation would draw from torch's global generator
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)  # type: ignore[no-untyped-call]
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
