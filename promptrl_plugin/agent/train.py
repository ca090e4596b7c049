"""Trains a PPO agent for one frozen backbone: tasks → rollouts → PPO → policy bundle."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.curves import plot_learning_curve
from promptrl_plugin.agent.network import ActorCritic
from promptrl_plugin.agent.parts import TrainingParts, make_bundle
from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.env.observation import ObservationLayout
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.storage.runs import RunFolder, write_json

__all__ = ["Selection", "TrainListener", "TrainResult", "evaluate_policy", "train"]

BEST = "best.safetensors"

Act = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], int]


class TrainListener(Protocol):
    """Follows a training run (the command line shows it, tests ignore it)."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` steps of `advance` are expected."""

    def advance(self, steps: int) -> None:
        """Progress within the stage."""

    def generation(self) -> None:
        """The backbone finished a generation."""

    def metrics(self, values: dict[str, float]) -> None:
        """Figures of a rollout or a validation."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training made.

    Attributes:
        bundle: Folder of the policy bundle.
        best_validation: Share of validation tasks solved by the selected checkpoint.
        curve: The learning curve's PNG.
    """

    bundle: Path
    best_validation: float
    curve: Path


def evaluate_policy(rollout: Rollout, layout: ObservationLayout, act: Act) -> dict[str, float]:
    """Run one greedy episode on every task of `rollout`, all at once.

    Returns:
        ``solved`` (share of tasks whose submission passes every test), ``visible`` (share that pass what
        is shown), ``fraction`` (mean best pass fraction), ``generations`` (mean spent) and ``return``.
    """
    episodes = [rollout.start(i) for i in range(len(rollout.tasks))]
    while alive := [e for e in episodes if not e.episode.done]:
        rollout.step([(e, act(layout.observe(e.episode), e.episode.mask())) for e in alive])
    return _summarise(episodes)


def _summarise(episodes: Sequence[RewardedEpisode]) -> dict[str, float]:
    n = len(episodes)
    return {
        "solved": sum(e.solved for e in episodes) / n,
        "visible": sum(e.episode.solved for e in episodes) / n,
        "fraction": sum(e.fraction for e in episodes) / n,
        "generations": sum(e.episode.spent for e in episodes) / n,
        "return": sum(e.total for e in episodes) / n,
    }


def train(parts: TrainingParts, run: RunFolder, listener: TrainListener, *, resume: bool = False) -> TrainResult:
    """Train, select the checkpoint by held-out train tasks, and write the bundle.

    Everything needed to go on after a kill is in the run folder: the checkpoint of the last finished
    rollout and the completions in the cache. `resume` continues there and ends with the same parameters
    as an uninterrupted run.

    Args:
        parts: Tasks, backbone, judge and setup (see `promptrl_plugin.agent.parts.build`).
        run: The run folder.
        listener: Follows the run.
        resume: Continue from the run folder's checkpoint.
    """
    config, layout, checkpoint = parts.config, parts.setup.layout, run.path / "checkpoint.safetensors"
    env = VectorPromptEnv(parts.rollout, layout, config.ppo.n_envs, seed=config.seed, variants=config.variants)
    best = Selection.load(run) if resume else Selection()
    started = time.monotonic()

    def on_rollout(values: dict[str, float]) -> None:
        nonlocal best
        row = dict(values) | {"time/minutes": (time.monotonic() - started) / 60} | parts.counters()
        if agent.num_rollouts % config.validate_every == 0 or agent.num_timesteps >= config.ppo.total_steps:
            figures = evaluate_policy(parts.validation, layout, _greedy(agent))
            row |= {f"validation/{k}": v for k, v in figures.items()}
            best = best.better_of(figures, agent, run)
        log.write(row)
        agent.save_checkpoint(checkpoint)
        listener.advance(config.ppo.n_envs * config.ppo.n_steps)
        listener.metrics(row)

    agent = PPO(env, config.ppo, config.seed, on_rollout=on_rollout)
    if resume and checkpoint.exists():
        agent.load_checkpoint(checkpoint)
    listener.stage("train", config.ppo.total_steps)
    listener.advance(agent.num_timesteps)
    with MetricsLog(run, agent.num_timesteps) as log:
        agent.learn()
    curve = plot_learning_curve(latest_rows(run.metrics()), run.path / "learning_curve.png")
    bundle = make_bundle(parts, best_policy(run), latest_rows(run.metrics()), run.path / "bundle")
    return TrainResult(bundle, best.solved, curve)


def _greedy(agent: PPO) -> Act:
    return lambda observation, mask: int(agent.predict(observation[None], mask[None])[0])


@dataclass(frozen=True, slots=True)
class Selection:
    """The best checkpoint so far, by held-out train tasks (never by test tasks).

    Attributes:
        solved: Share of validation tasks whose submission passes every test; decides.
        mean_return: Mean return there; decides between equals.
        steps: Environment steps at which it was reached.
    """

    solved: float = -1.0
    mean_return: float = -math.inf
    steps: int = 0

    @classmethod
    def load(cls, run: RunFolder) -> Selection:
        """The selection of an interrupted run."""
        path = run.path / "selection.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def better_of(self, figures: dict[str, float], agent: PPO, run: RunFolder) -> Selection:
        """Itself, or the agent's parameters (which are then written) where they are better."""
        if (figures["solved"], figures["return"]) <= (self.solved, self.mean_return):
            return self
        new = Selection(figures["solved"], figures["return"], agent.num_timesteps)
        agent.save_policy(run.path / BEST)
        write_json(run.path / "selection.json", asdict(new))
        return new


def best_policy(run: RunFolder) -> ActorCritic:
    """The selected parameters of a run."""
    return ActorCritic.load(run.path / BEST)


class MetricsLog:
    """Metrics of a run, as JSON Lines in the run folder and for TensorBoard."""

    def __init__(self, run: RunFolder, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._run = run
        self._tensorboard = SummaryWriter(str(run.path / "tensorboard"), purge_step=step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._tensorboard.close()
        self._run.close()

    def write(self, row: dict[str, float]) -> None:
        """Log the figures of one rollout."""
        self._run.log(row)
        for key, value in row.items():
            self._tensorboard.add_scalar(key, value, int(row["steps"]))


def latest_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a step count, the last one written: a rollout repeated after a kill counts once."""
    return list({row["steps"]: row for row in rows}.values())
