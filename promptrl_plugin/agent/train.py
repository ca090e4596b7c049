"""Trains what a strategy learns for one frozen backbone: tasks → learner → policy bundle. PPO is the default."""

from __future__ import annotations

import time
from collections.abc import Callable

from promptrl_plugin.agent.best_fixed import train_best_fixed
from promptrl_plugin.agent.gepa import train_gepa
from promptrl_plugin.agent.linucb import train_linucb
from promptrl_plugin.agent.network import ActorCritic
from promptrl_plugin.agent.parts import TrainingParts
from promptrl_plugin.agent.ppo import PPO
from promptrl_plugin.agent.progress import (
    BEST,
    Act,
    MetricsLog,
    Selection,
    TrainListener,
    TrainResult,
    damaged,
    evaluate_policy,
    finish,
    random_choice,
)
from promptrl_plugin.agent.survey import survey
from promptrl_plugin.agent.tensorfile import load_tree, save_tree
from promptrl_plugin.agent.warm_start import clone
from promptrl_plugin.env.vector_env import VectorPromptEnv
from promptrl_plugin.errors import UnknownNameError
from promptrl_plugin.storage.runs import RunFolder

__all__ = ["train"]

_OTHERS: dict[str, Callable[[TrainingParts, RunFolder, TrainListener], TrainResult]] = {
    "linucb": train_linucb,
    "best-fixed": train_best_fixed,
    "gepa": train_gepa,
}


def train(parts: TrainingParts, run: RunFolder, listener: TrainListener, *, resume: bool = False) -> TrainResult:
    """Train by the learner that the configuration names, and write the bundle.

    Everything needed to go on after a kill is in the run folder and the cache of completions: PPO goes on
    from the checkpoint of its last finished rollout; the other learners, whose own work is small, begin
    again, and find what they generated in the cache. Either ends with the same parameters as an
    uninterrupted run.

    Args:
        parts: Tasks, backbone, judge and setup (see `promptrl_plugin.agent.parts.build`).
        run: The run folder.
        listener: Follows the run.
        resume: Go on with an interrupted run.

    Raises:
        UnknownNameError: There is no such learner.
        ConfigError: The run folder's checkpoint or selection is damaged, or of another configuration.
        UserError: The run folder cannot be written.
    """
    learner = parts.config.learner
    if learner == "ppo":
        return train_ppo(parts, run, listener, resume=resume)
    if learner not in _OTHERS:
        raise UnknownNameError("learner", learner, ["ppo", *_OTHERS])
    return _OTHERS[learner](parts, run, listener)


def train_ppo(parts: TrainingParts, run: RunFolder, listener: TrainListener, *, resume: bool = False) -> TrainResult:
    """Train an agent by PPO and select the checkpoint by held-out train tasks.

    The policy that PPO begins with (after a warm start, where there is one) is validated first: the learning curve
    tells what learning added to it, and it is what is selected where nothing after it is better.
    """
    config, layout, checkpoint = parts.config, parts.setup.layout, run.path / "checkpoint.safetensors"
    n_envs, variants = config.ppo.n_envs, config.variants
    env = VectorPromptEnv(parts.rollout, layout, n_envs, seed=config.seed, variants=variants)
    recall, generated = parts.recall(), run.path / "generated.safetensors"
    memory = VectorPromptEnv(parts.rollout, layout, n_envs, variants=variants, recall=recall)
    best = Selection.load(run) if resume else Selection()
    started = time.monotonic()

    def validate() -> dict[str, float]:
        nonlocal best
        figures = evaluate_policy(parts.validation, layout, lambda: _greedy(agent))
        best = best.better_of(figures, agent, run)
        return {f"validation/{k}": v for k, v in figures.items()}

    def on_rollout(values: dict[str, float]) -> None:
        row = dict(values) | {"time/minutes": (time.monotonic() - started) / 60} | parts.counters()
        if agent.num_rollouts % config.validate_every == 0 or agent.num_timesteps >= config.ppo.total_steps:
            row |= validate()
        log.write(row)
        if not config.ppo.replays:  # else the checkpoint holds it
            save_tree(generated, recall.get_state())
        agent.save_checkpoint(checkpoint)
        listener.advance(config.ppo.n_envs * config.ppo.n_steps)
        listener.metrics(row)

    agent = PPO(env, config.ppo, config.seed, on_rollout=on_rollout, replay_env=memory)
    if resume and checkpoint.exists():
        agent.load_checkpoint(checkpoint)
        if generated.exists():
            recall.set_state(load_tree(generated))
    with MetricsLog(run, agent.num_timesteps) as log:
        if agent.num_timesteps == 0:
            listener.stage("random choice on the validation tasks")
            row = {"steps": 0.0} | random_choice(parts)
            listener.metrics(row)
            survey(parts, listener)
            row |= _warm_start(agent, env, parts, listener)
            agent.anchor()
            listener.stage("the untrained policy on the validation tasks")
            untrained = validate()
            listener.metrics({"steps": 0.0} | untrained)
            log.write(row | untrained)
        listener.stage("train", config.ppo.total_steps)
        listener.advance(agent.num_timesteps)
        agent.learn()
    policy = best_policy(run)
    return finish(parts, run, policy.spec(), policy.tensors(), best.solved)


def _warm_start(agent: PPO, env: VectorPromptEnv, parts: TrainingParts, listener: TrainListener) -> dict[str, float]:
    """Clone the demonstrated sequence, where there is one; returns the figures of it."""
    config = parts.config.warm_start
    if not config.sequence:
        return {}
    listener.stage("warm start: " + ", ".join(config.sequence))
    figures = {"warm_start/divergence": clone(agent, lambda: env.demonstration(config.sequence), config)}
    listener.metrics({"steps": 0.0} | figures)
    return figures


def best_policy(run: RunFolder) -> ActorCritic:
    """The selected parameters of a run.

    Raises:
        ConfigError: They cannot be read.
    """
    path = run.path / BEST
    try:
        return ActorCritic.load(path)
    except (OSError, ValueError) as e:
        raise damaged(path, e) from None


def _greedy(agent: PPO) -> Act:
    return lambda observation, mask: int(agent.predict(observation[None], mask[None])[0])
