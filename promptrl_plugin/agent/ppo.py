"""Proximal policy optimisation with masked actions: collect → train → log.

Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347), with generalised
advantage estimation (arXiv 1506.02438) and invalid action masking (arXiv 2006.14171). Every random
draw comes from the agent's own generator, so a run is a function of its seed, and a run resumed from a
checkpoint ends with the very parameters of an uninterrupted one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptrl_plugin.agent.buffer import Batch, Rollout
from promptrl_plugin.agent.checkpoint import CHECKPOINT_VERSION, get_state, read_checkpoint, set_state
from promptrl_plugin.agent.losses import Losses, ppo_losses
from promptrl_plugin.agent.masked_env import Bools, Floats, MaskedVectorEnv, Rehearsing, Source, dimensions
from promptrl_plugin.agent.network import ActorCritic, gumbel, masked_divergence, masked_entropy, one_thread
from promptrl_plugin.agent.tensorfile import save_tree
from promptrl_plugin.config import PPOConfig

__all__ = ["CHECKPOINT_VERSION", "PPO", "MaskedVectorEnv"]

KL_TOLERANCE = 1.5  #: an update stops at that multiple of `target_kl` (as Stable-Baselines3)
ADAM_EPSILON = 1e-5  #: as in the original implementation (OpenAI Baselines, ppo2)

OnRollout = Callable[[dict[str, float]], bool | None]
"""Gets the metrics of each rollout and its update; returning False ends the training there."""


class PPO:
    """The agent: an actor-critic, its optimiser, and where they are in training.

    Args:
        env: The environments; `PPOConfig.n_envs` must agree with it.
        config: Every setting; nothing here has a default of its own.
        seed: Seeds initial weights, action sampling, minibatch order and the first `reset`.
        policy: Start from this policy (e.g. a warm-started one) instead of a fresh one.
        on_rollout: See `OnRollout`.
        replay_env: Where the `PPOConfig.replays` rollouts after each one are collected.

    Attributes:
        policy / optimizer / generator: What learns, how, and where its random numbers come from.
        num_timesteps / num_rollouts: How far training has come, without replays.
        reference: The policy that `PPOConfig.reference_kl_coef` keeps training near; None until `anchor`.
        live / memory: Where it stands in `env` and, where there are replays, in `replay_env`.

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
        obs_dim, n_actions = dimensions(env)
        self.policy = policy or ActorCritic(obs_dim, n_actions, config, self.generator)
        if (self.policy.obs_dim, self.policy.n_actions) != (obs_dim, n_actions):
            raise ValueError(f"the policy was not made for {obs_dim} features and {n_actions} actions")
        if env.num_envs != config.n_envs:
            raise ValueError(f"config.n_envs is {config.n_envs}, but there are {env.num_envs} environments")
        if config.replays and replay_env is None:
            raise ValueError(f"config.replays is {config.replays}, but there is no replay_env")
        self.optimizer = torch.optim.Adam(self.policy.parameters(), config.learning_rate, eps=ADAM_EPSILON)
        self.reference: ActorCritic | None = None
        self.num_timesteps = 0
        self.num_rollouts = 0
        self.live = Source(env)
        self.memory = Source(replay_env) if replay_env is not None and config.replays else None

    def learn(self, total_steps: int | None = None) -> PPO:
        """Train until `total_steps` transitions (default: `PPOConfig.total_steps`) have been collected.

        The last rollout is always whole. Call it again, with the same total, to go on after an early
        end or a restored checkpoint; the schedules are functions of steps done and `total_steps`.
        """
        total = self.config.total_steps if total_steps is None else total_steps
        while self.num_timesteps < total:
            started = time.perf_counter()
            learning_rate, ent_coef = self._schedules(self.num_timesteps / total)
            rollout, metrics = self._collect(self.live)
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

    def anchor(self) -> None:
        """Take the policy as it is for the reference, where `PPOConfig.reference_kl_coef` wants one."""
        if self.config.reference_kl_coef:
            self.reference = copy.deepcopy(self.policy)

    def predict(self, observations: Floats, masks: Bools, deterministic: bool = True) -> npt.NDArray[np.int64]:
        """Actions ``[n]`` for raw observations; normaliser and, if deterministic, generator are untouched."""
        return self.policy.act(observations, masks, None if deterministic else self.generator)

    def _replay(self, learning_rate: float, ent_coef: float) -> dict[str, float]:
        """`PPOConfig.replays` rollouts with an update each, from memory; returns the last one's figures."""
        figures: dict[str, float] = {}
        for _ in range(self.config.replays if self.memory is not None else 0):
            assert self.memory is not None
            rollout, metrics = self._collect(self.memory)
            metrics |= self._train(rollout, learning_rate, ent_coef)
            figures = {f"replay/{k.partition('/')[2]}": v for k, v in metrics.items()}
        return figures

    def _schedules(self, progress: float) -> tuple[float, float]:
        """Learning rate and entropy coefficient for a rollout that starts at `progress` in [0, 1)."""
        c = self.config
        return c.learning_rate * (1.0 - progress), c.ent_coef_start + (c.ent_coef_end - c.ent_coef_start) * progress

    # --- collect ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, source: Source) -> tuple[Rollout, dict[str, float]]:
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
        losses = ppo_losses(
            taken,
            values,
            masked_entropy(log_probs, batch.masks),
            batch,
            clip_range=config.clip_range,
            vf_coef=config.vf_coef,
            ent_coef=ent_coef,
        )
        if self.reference is None:
            return losses
        # As in Ziegler et al. 2019, "Fine-tuning language models from human preferences" (arXiv 1909.08593), but exact.
        with torch.no_grad():
            reference, _ = self.reference(batch.features, batch.masks)
        apart = masked_divergence(log_probs, reference, batch.masks).mean()
        return losses._replace(total=losses.total + config.reference_kl_coef * apart, reference_kl=apart)

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

    def save_policy(self, path: Path) -> None:
        """Write the policy alone (see `ActorCritic.save`), e.g. the best one so far."""
        self.policy.save(path)

    def state_dict(self) -> dict[str, Any]:
        """All that changes how training goes on (`agent.checkpoint`)."""
        return get_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ConfigError: Made by another version, network or configuration (`total_steps` may differ).
        """
        set_state(self, state)

    def save_checkpoint(self, path: Path) -> None:
        """Write `state_dict` to one safetensors file, atomically."""
        save_tree(path, self.state_dict())

    def load_checkpoint(self, path: Path) -> None:
        """Go on from a file of `save_checkpoint`.

        Raises:
            ConfigError: It is missing, damaged, or does not fit (see `load_state_dict`).
        """
        self.load_state_dict(read_checkpoint(path))
