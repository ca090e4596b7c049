"""LinUCB with disjoint linear models (Li et al. 2010, arXiv 1003.0146, algorithm 1) over the agent's actions.

The contextual bandit is the sanity check of PPO: the same actions under the same masks, the same observation,
tasks and reward, but each step stands alone, and its payoff is the reward of that step, not of what follows.
With ``x`` an observation followed by a constant 1, each action ``a`` has

``A_a = λI + Σ x xᵀ``, ``b_a = Σ r x``, ``θ_a = A_a⁻¹ b_a``, and ``a_t = argmax θ_aᵀx + α √(xᵀ A_a⁻¹ x)``

over the allowed actions. Steps come in batches of as many as there are environments: within a batch each
choice narrows the confidence bounds of the next ones at once, the means wait for the rewards (Desautels et al.
2014, "Parallelizing exploration–exploitation tradeoffs in Gaussian process bandit optimization", GP-BUCB).
Where PPO begins with a survey of the operators (`TrainConfig.survey`), so does the bandit: it learns from each of its
steps, and its own episodes meet them again for nothing. Observations are taken as they are: their features are of order
one, and a sum of outer products cannot follow a normaliser that moves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.bundle import Policy
from promptrl_plugin.agent.parts import TrainingParts
from promptrl_plugin.agent.progress import (
    BEST,
    MetricsLog,
    Quota,
    Selection,
    TrainListener,
    TrainResult,
    evaluate_policy,
    finish,
    random_choice,
)
from promptrl_plugin.agent.survey import survey
from promptrl_plugin.agent.tensorfile import load_tree, save_tree
from promptrl_plugin.config import LinUCBConfig
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["LinUCB", "mean_policy", "train_linucb"]

Floats = npt.NDArray[np.float64]
Observations = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class LinUCB:
    """One ridge regression an action, and the optimistic choice between them.

    Args:
        obs_dim: Number of observation features.
        n_actions: Size of the action table.
        config: α and λ.

    Attributes:
        inverse: ``A_a⁻¹``, float64 ``[n_actions, obs_dim + 1, obs_dim + 1]``.
        moment: ``b_a``, float64 ``[n_actions, obs_dim + 1]``.
        num_timesteps: Rewards seen so far.
    """

    def __init__(self, obs_dim: int, n_actions: int, config: LinUCBConfig) -> None:
        self.config = config
        self.inverse: Floats = np.repeat(np.eye(obs_dim + 1)[None] / config.ridge, n_actions, axis=0)
        self.moment: Floats = np.zeros((n_actions, obs_dim + 1))
        self.num_timesteps = 0

    @property
    def theta(self) -> Floats:
        """``θ_a``, float64 ``[n_actions, obs_dim + 1]``."""
        theta: Floats = np.einsum("aij,aj->ai", self.inverse, self.moment)
        return theta

    def choose(self, observations: Observations, masks: Bools) -> npt.NDArray[np.int64]:
        """The action ``[n]`` with the highest upper confidence bound for each row, the rows in turn.

        Each choice enters ``A_a`` at once; its reward has to follow (`reward`) before the next call.

        Args:
            observations: Raw, float32 ``[n, obs_dim]``.
            masks: Allowed actions, bool ``[n, n_actions]``.
        """
        contexts = _with_constant(observations)
        means = contexts @ self.theta.T
        actions = np.empty(len(contexts), dtype=np.int64)
        for i, (x, mean, mask) in enumerate(zip(contexts, means, masks, strict=True)):
            widths = np.sqrt(np.maximum(self.inverse @ x @ x, 0.0))
            actions[i] = np.where(mask, mean + self.config.alpha * widths, -np.inf).argmax()
            self._count(actions[i], x)
        return actions

    def learn(self, observations: Observations, actions: npt.NDArray[np.int64], rewards: Floats) -> None:
        """Steps that somebody else chose, and what they were worth, each ``[n]``."""
        for x, a in zip(_with_constant(observations), actions, strict=True):
            self._count(a, x)
        self.reward(observations, actions, rewards)

    def _count(self, action: np.int64, x: Floats) -> None:
        """Take one context into ``A_a⁻¹`` (Sherman–Morrison)."""
        direction = self.inverse[action] @ x
        self.inverse[action] -= np.outer(direction, direction) / (1.0 + direction @ x)

    def reward(self, observations: Observations, actions: npt.NDArray[np.int64], rewards: Floats) -> None:
        """What the chosen actions were worth, each ``[n]``."""
        np.add.at(self.moment, actions, rewards[:, None] * _with_constant(observations))
        self.num_timesteps += len(actions)

    def save_policy(self, path: Path) -> None:
        """Write θ alone, atomically."""
        save_tree(path, {"theta": self.theta.astype(np.float32)})


def mean_policy(theta: npt.NDArray[np.float32]) -> Policy:
    """Acts by the highest mean payoff θᵀx among the allowed actions: α is 0 once training is over.

    Args:
        theta: ``[n_actions, obs_dim + 1]``.
    """

    def act(observation: Observations, mask: Bools) -> int:
        means = theta.astype(np.float64) @ _with_constant(observation[None])[0]
        return int(np.where(mask, means, -np.inf).argmax())

    return act


def train_linucb(parts: TrainingParts, run: RunFolder, listener: TrainListener) -> TrainResult:
    """Train LinUCB on the environments of PPO and select its parameters by held-out train tasks, as for PPO."""
    config, layout = parts.config, parts.setup.layout
    env = VectorPromptEnv(parts.rollout, layout, config.ppo.n_envs, seed=config.seed, variants=config.variants)
    agent = LinUCB(layout.size, parts.setup.table.n, config.linucb)
    best, started = Selection(), time.monotonic()
    with MetricsLog(run, 0) as log:
        listener.stage("random choice on the validation tasks")
        quota = Quota(parts, listener)
        log.write({"steps": 0.0} | random_choice(parts))
        survey(parts, listener, agent.learn)
        listener.stage("train", quota.limit)
        observations, _ = env.reset(seed=config.seed)
        rollouts, over = 0, False
        while not over:
            episodes: list[Mapping[str, Any]] = []
            for _ in range(config.ppo.n_steps):
                actions = agent.choose(observations, env.action_masks())
                following, rewards, _, _, infos = env.step(actions)
                agent.reward(observations, actions, rewards)
                observations = following
                episodes += [e for e in infos["episode"] if e is not None]
                if over := quota.spent():
                    break
            rollouts += 1
            row = {"steps": float(agent.num_timesteps), "time/minutes": (time.monotonic() - started) / 60}
            row |= _means(episodes)
            if over or rollouts % config.validate_every == 0:
                actor = partial(mean_policy, agent.theta.astype(np.float32))
                figures = evaluate_policy(parts.validation, layout, actor)
                row |= {f"validation/{k}": v for k, v in figures.items()}
                best = best.better_of(figures, agent, run)
            row |= parts.counters()
            log.write(row)
            listener.metrics(row)
    network = {"alpha": config.linucb.alpha, "ridge": config.linucb.ridge}
    return finish(parts, run, network, load_tree(run.path / BEST), best.solved)


def _means(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of the episodes that ended, by name."""
    keys = ("return", "length", "generations", "solved", "visible_solved", "fraction") if episodes else ()
    return {"rollout/episodes": float(len(episodes))} | {
        f"rollout/{k}": float(np.mean([e[k] for e in episodes])) for k in keys
    }


def _with_constant(observations: Observations) -> Floats:
    return np.concatenate([observations.astype(np.float64), np.ones((len(observations), 1))], axis=1)
