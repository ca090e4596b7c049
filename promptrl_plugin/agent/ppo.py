"""Proximal policy optimisation with masked actions, in one file: collect → train → log.

Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347), with generalised
advantage estimation (arXiv 1506.02438) and invalid action masking (arXiv 2006.14171). Every random
draw comes from the agent's own generator, so a run is a function of its seed, and a run resumed from a
checkpoint ends with the very parameters of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptrl_plugin import __version__
from promptrl_plugin.agent.network import ActorCritic, gumbel, masked_entropy, one_thread
from promptrl_plugin.agent.tensorfile import load_tree, save_tree
from promptrl_plugin.config import PPOConfig, to_dict
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.storage.runs import environment

__all__ = ["CHECKPOINT_VERSION", "PPO", "Losses", "MaskedVectorEnv", "Rollout", "compute_gae", "ppo_losses"]

CHECKPOINT_VERSION = 3
KL_TOLERANCE = 1.5  #: an update stops at that multiple of `target_kl` (as Stable-Baselines3)
ADAM_EPSILON = 1e-5  #: as in the original implementation (OpenAI Baselines, ppo2)

Floats = npt.NDArray[np.float32]
Rewards = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
OnRollout = Callable[[dict[str, float]], bool | None]
"""Gets the metrics of each rollout and its update; returning False ends the training there."""


class MaskedVectorEnv(Protocol):
    """Several environments stepped at once, each with a mask of allowed actions.

    A finished sub-environment starts its next episode by itself: `step` then returns the first
    observation of the new episode and, for each finished one, ``infos["final_observation"][i]`` (the last
    of the old episode) and, if wanted in the metrics, ``infos["episode"][i]`` (a dict of numbers such as
    ``return`` and ``length``); both are sequences of length `num_envs` with None elsewhere.
    """

    num_envs: int

    @property
    def single_observation_space(self) -> gymnasium.spaces.Space[Floats]:
        """``Box`` of shape ``[obs_dim]``, float32."""
        ...

    @property
    def single_action_space(self) -> gymnasium.spaces.Space[Any]:
        """``Discrete(n_actions)``."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start every episode anew; observations ``[n, obs_dim]``."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Floats, Rewards, Bools, Bools, dict[str, Any]]:
        """Observations ``[n, obs_dim]``, rewards, terminated and truncated ``[n]``, and infos."""
        ...

    def action_masks(self) -> Bools:
        """Allowed actions at the current observations, bool ``[n, n_actions]``."""
        ...

    def get_state(self) -> dict[str, Any]:
        """All that `set_state` needs to go on exactly from here: nested JSON data and numeric arrays."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned (tuples have become lists)."""
        ...


@runtime_checkable
class Rehearsing(Protocol):
    """Environments that can prepare the steps to come, where those of one need not wait for those of another."""

    def rehearse(self, n_steps: int, choose: Callable[[int, int, Floats, Bools], int]) -> None:
        """Prepare `n_steps` steps whose actions are ``choose(sub-environment, step, observation, mask)``."""
        ...


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


class Losses(NamedTuple):
    """Loss terms (means over the batch) and what is watched besides, all scalars."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


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
    return Losses(total, policy, value, entropy.mean(), approx_kl, clip_fraction)


class _Source:
    """Environments, with the observations that the next actions answer (None before the first reset)."""

    def __init__(self, env: MaskedVectorEnv) -> None:
        self.env = env
        self.observations: Floats | None = None
        self.ended = np.zeros(env.num_envs, dtype=np.bool_)  # who has ended an episode yet

    def get_state(self) -> dict[str, Any] | None:
        if self.observations is None:
            return None
        return {"observations": self.observations.copy(), "ended": self.ended.copy(), "env": self.env.get_state()}

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            self.env.set_state(state["env"])
            self.observations = state["observations"]
            self.ended = np.array(state["ended"], dtype=np.bool_)


class PPO:
    """The agent: an actor-critic, its optimiser, and where they are in training.

    Args:
        env: The environments; `PPOConfig.n_envs` must agree with it.
        config: Every setting; nothing here has a default of its own.
        seed: Seeds initial weights, action sampling, minibatch order and the first `reset`.
        policy: Start from this policy (e.g. a warm-started one) instead of a fresh one.
        on_rollout: See `OnRollout`.
        replay_env: Where the `PPOConfig.replays` rollouts after each one are collected.

    Raises:
        ValueError: `policy` or `config` does not fit `env`.
    """

    def __init__(
        self,
        env: MaskedVectorEnv,
        config: PPOConfig,
        seed: int,
        policy: ActorCritic | None = None,
        on_rollout: OnRollout | None = None,
        replay_env: MaskedVectorEnv | None = None,
    ) -> None:
        self.env, self.config, self.seed, self.on_rollout = env, config, seed, on_rollout
        self.generator = torch.Generator().manual_seed(seed)
        obs_dim, n_actions = _dimensions(env)
        self.policy = policy or ActorCritic(obs_dim, n_actions, config, self.generator)
        if (self.policy.obs_dim, self.policy.n_actions) != (obs_dim, n_actions):
            raise ValueError(f"the policy was not made for {obs_dim} features and {n_actions} actions")
        if env.num_envs != config.n_envs:
            raise ValueError(f"config.n_envs is {config.n_envs}, but there are {env.num_envs} environments")
        if config.replays and replay_env is None:
            raise ValueError(f"config.replays is {config.replays}, but there is no replay_env")
        self.optimizer = torch.optim.Adam(self.policy.parameters(), config.learning_rate, eps=ADAM_EPSILON)
        self.num_timesteps = 0
        self.num_rollouts = 0
        self._live = _Source(env)
        self._memory = _Source(replay_env) if replay_env is not None and config.replays else None

    def learn(self, total_steps: int | None = None) -> PPO:
        """Train until `total_steps` transitions (default: `PPOConfig.total_steps`) have been collected.

        The last rollout is always whole. Call it again, with the same total, to go on after an early
        end or a restored checkpoint; the schedules are functions of steps done and `total_steps`.
        """
        total = self.config.total_steps if total_steps is None else total_steps
        while self.num_timesteps < total:
            started = time.perf_counter()
            learning_rate, ent_coef = self._schedules(self.num_timesteps / total)
            rollout, metrics = self._collect(self._live)
            self.num_timesteps += self.config.n_steps * self.config.n_envs
            self.num_rollouts += 1
            metrics |= {"steps": float(self.num_timesteps), "rollouts": float(self.num_rollouts)}
            collected = time.perf_counter()
            metrics |= self._train(rollout, learning_rate, ent_coef)
            metrics |= self._replay(learning_rate, ent_coef)
            metrics |= {
                "time/rollout_seconds": collected - started,
                "time/update_seconds": time.perf_counter() - collected,
            }
            if self.on_rollout is not None and self.on_rollout(metrics) is False:
                break
        return self

    def predict(self, observations: Floats, masks: Bools, deterministic: bool = True) -> npt.NDArray[np.int64]:
        """Actions ``[n]`` for raw observations; normaliser and, if deterministic, generator are untouched."""
        return self.policy.act(observations, masks, None if deterministic else self.generator)

    def _replay(self, learning_rate: float, ent_coef: float) -> dict[str, float]:
        """`PPOConfig.replays` rollouts with an update each, from memory; returns the last one's figures."""
        figures: dict[str, float] = {}
        for _ in range(self.config.replays if self._memory is not None else 0):
            assert self._memory is not None
            rollout, metrics = self._collect(self._memory)
            metrics |= self._train(rollout, learning_rate, ent_coef)
            figures = {f"replay/{k.partition('/')[2]}": v for k, v in metrics.items()}
        return figures

    def _schedules(self, progress: float) -> tuple[float, float]:
        """Learning rate and entropy coefficient for a rollout that starts at `progress` in [0, 1)."""
        c = self.config
        return c.learning_rate * (1.0 - progress), c.ent_coef_start + (c.ent_coef_end - c.ent_coef_start) * progress

    # --- collect ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, source: _Source) -> tuple[Rollout, dict[str, float]]:
        config, policy, env = self.config, self.policy, source.env
        if source.observations is None:
            source.observations, _ = env.reset(seed=self.seed)
        first = not int(policy.normalizer.count)
        if first:
            policy.normalizer.update(torch.as_tensor(source.observations))
        rollout = Rollout(config.n_steps, config.n_envs, policy.obs_dim, policy.n_actions)
        # Drawn ahead, so that each environment's actions do not depend on the others' pace (Gumbel-max sampling).
        noise = gumbel((config.n_steps, config.n_envs, policy.n_actions), self.generator)
        self._rehearse(env, noise)
        episodes: list[Mapping[str, Any]] = []
        seen: list[Tensor] = []
        steady = bool(source.ended.all())
        for t in range(config.n_steps):
            seen.append(torch.as_tensor(source.observations))
            features, masks = policy.normalizer(seen[-1]), torch.as_tensor(env.action_masks())
            log_probs, values = policy(features, masks)
            actions = (log_probs + noise[t]).argmax(dim=-1)
            source.observations, rewards, terminated, truncated, infos = env.step(actions.numpy())
            if not np.isfinite(rewards).all():
                raise ValueError(f"the environment gave a reward that is not finite: {rewards.tolist()}")
            rollout.features[t], rollout.masks[t], rollout.actions[t] = features, masks, actions
            rollout.log_probs[t] = log_probs.gather(1, actions.unsqueeze(1)).squeeze(1)
            rollout.values[t], rollout.rewards[t] = values, torch.as_tensor(rewards)
            rollout.terminated[t], rollout.truncated[t] = torch.as_tensor(terminated), torch.as_tensor(truncated)
            rollout.next_values[t] = self._final_values(truncated, infos)
            source.ended |= terminated | truncated
            episodes += [e for e in infos.get("episode", ()) if e is not None]
        last_values = policy.value(policy.normalizer(torch.as_tensor(source.observations)))
        rollout.finish(last_values, config.gamma, config.gae_lambda)
        for raw in seen[first:]:  # only now: within a rollout the policy stays the same
            policy.normalizer.update(raw)
        return rollout, self._rollout_metrics(rollout, episodes if steady else [])

    def _rehearse(self, env: MaskedVectorEnv, noise: Tensor) -> None:
        """Let the environments prepare the rollout that this policy will collect with this noise."""
        if isinstance(env, Rehearsing):
            policy = self.policy

            def choose(i: int, t: int, observation: Floats, mask: Bools) -> int:
                features = policy.normalizer(torch.as_tensor(observation[None]))
                log_probs, _ = policy(features, torch.as_tensor(mask[None]))
                return int((log_probs[0] + noise[t, i]).argmax())

            env.rehearse(self.config.n_steps, choose)

    def _final_values(self, truncated: Bools, infos: Mapping[str, Any]) -> Tensor:
        """Values ``[n]`` of the last observations of truncated episodes, 0 elsewhere."""
        values = torch.zeros(len(truncated))
        cut = np.flatnonzero(truncated)
        if len(cut):
            finals = np.stack([np.asarray(infos["final_observation"][i], dtype=np.float32) for i in cut])
            values[torch.as_tensor(cut)] = self.policy.value(self.policy.normalizer(torch.as_tensor(finals)))
        return values

    def _rollout_metrics(self, rollout: Rollout, episodes: list[Mapping[str, Any]]) -> dict[str, float]:
        """Figures of a rollout; `episodes` is empty until all environments have ended one.

        They begin together, so the first to end are the short ones, which are not like the rest.
        """
        metrics = {
            "rollout/episodes": float(len(episodes)),
            "rollout/reward": float(rollout.rewards.mean()),
        }
        for key in sorted({key for episode in episodes for key in episode}):
            numbers = [float(e[key]) for e in episodes if isinstance(e.get(key), int | float | np.number | np.bool_)]
            if numbers:
                metrics[f"rollout/{key}"] = float(np.mean(numbers))
        variance = float(rollout.returns.var())
        residual = float((rollout.returns - rollout.values).var())
        metrics["train/explained_variance"] = 1.0 - residual / variance if variance > 0 else 0.0
        return metrics

    # --- train -----------------------------------------------------------------------------------

    def _train(self, rollout: Rollout, learning_rate: float, ent_coef: float) -> dict[str, float]:
        """Minibatch epochs over one rollout; ends early once the policy has moved by `target_kl`."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        seen: list[Losses] = []
        updates, stopped = 0, False
        for _ in range(config.n_epochs):
            for batch in rollout.minibatches(config.batch_size, self.generator):
                losses = self._losses(batch, ent_coef)
                seen.append(Losses(*(x.detach() for x in losses)))
                stopped = config.target_kl is not None and float(losses.approx_kl) > KL_TOLERANCE * config.target_kl
                if stopped:
                    break
                self.update(losses.total)
                updates += 1
            if stopped:
                break
        means = {f"train/{k}": float(torch.stack([getattr(x, k) for x in seen]).mean()) for k in Losses._fields}
        return means | {
            "train/updates": float(updates),
            "train/kl_stop": float(stopped),
            "train/learning_rate": learning_rate,
            "train/ent_coef": ent_coef,
        }

    def _losses(self, batch: Batch, ent_coef: float) -> Losses:
        config = self.config
        if config.normalize_advantage and len(batch.advantages) > 1:
            a = batch.advantages
            batch = batch._replace(advantages=(a - a.mean()) / (a.std() + 1e-8))
        log_probs, values = self.policy(batch.features, batch.masks)
        taken = log_probs.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        return ppo_losses(
            taken,
            values,
            masked_entropy(log_probs, batch.masks),
            batch,
            clip_range=config.clip_range,
            vf_coef=config.vf_coef,
            ent_coef=ent_coef,
        )

    @one_thread()
    def update(self, loss: Tensor) -> None:
        """One step of the optimiser down the gradient of `loss`.

        Raises:
            FloatingPointError: It is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss is {float(loss)} after {self.num_timesteps} steps")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        self.optimizer.step()

    # --- save and resume ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that changes how training goes on: nested JSON data and numpy arrays."""
        adam = self.optimizer.state_dict()["state"]
        return {
            "version": CHECKPOINT_VERSION,
            "system": environment(),
            "config": to_dict(self.config),
            "network": self.policy.spec(),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "num_rollouts": self.num_rollouts,
            "policy": self.policy.tensors(),
            "optimizer": {str(i): {k: v.numpy().copy() for k, v in slot.items()} for i, slot in adam.items()},
            "generator": self.generator.get_state().numpy().copy(),
            "live": self._live.get_state(),
            "memory": None if self._memory is None else self._memory.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ConfigError: Made by another version, network or configuration (`total_steps` may differ).
        """
        self._check_fits(state)
        self.policy.load_tensors(state["policy"])
        slots = {
            int(i): {k: torch.from_numpy(np.array(v)) for k, v in slot.items()}
            for i, slot in state["optimizer"].items()
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.generator.set_state(torch.from_numpy(np.array(state["generator"])))
        self.seed, self.num_timesteps, self.num_rollouts = state["seed"], state["num_timesteps"], state["num_rollouts"]
        self._live.set_state(state["live"])
        if self._memory is not None:
            self._memory.set_state(state["memory"])

    def _check_fits(self, state: Mapping[str, Any]) -> None:
        if state.get("version") != CHECKPOINT_VERSION:
            raise ConfigError(
                f"the checkpoint has format {state.get('version')}, this is promptrl {__version__} with format "
                f"{CHECKPOINT_VERSION}; resume it with the promptrl that wrote it, or train anew"
            )
        if state["network"] != self.policy.spec():
            raise ConfigError("the checkpoint is of another action table or observation; train anew")
        mine = to_dict(dataclasses.replace(self.config, total_steps=state["config"]["total_steps"]))
        differing = sorted(k for k in mine.keys() | state["config"].keys() if mine.get(k) != state["config"].get(k))
        if differing:
            raise ConfigError(f"the checkpoint was made with another {', '.join(differing)}; resume with the same")

    def save_policy(self, path: Path) -> None:
        """Write the policy alone (see `ActorCritic.save`), e.g. the best one so far."""
        self.policy.save(path)

    def save_checkpoint(self, path: Path) -> None:
        """Write `state_dict` to one safetensors file, atomically."""
        save_tree(path, self.state_dict())

    def load_checkpoint(self, path: Path) -> None:
        """Go on from a file of `save_checkpoint`.

        Raises:
            ConfigError: It is missing, damaged, or does not fit (see `load_state_dict`).
        """
        try:
            state = load_tree(path)
        except (OSError, ValueError) as e:
            raise ConfigError(
                f"cannot resume from {path} ({e}); train again in another folder: what was generated is in the cache"
            ) from None
        self.load_state_dict(state)


def _dimensions(env: MaskedVectorEnv) -> tuple[int, int]:
    """Features and actions of the environments.

    Raises:
        ValueError: The spaces are not a flat ``Box`` and a ``Discrete``.
    """
    box, discrete = env.single_observation_space, env.single_action_space
    if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1:
        raise ValueError(f"observations must be a Box of one dimension, not {box}")
    if not isinstance(discrete, gymnasium.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, not {discrete}")
    return box.shape[0], int(discrete.n)
