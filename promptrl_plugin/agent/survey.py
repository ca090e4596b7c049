"""The survey: what every operator makes of every train task's own prompt, before a learner begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from promptrl_plugin.agent.parts import TrainingParts
from promptrl_plugin.agent.progress import TrainListener

__all__ = ["Learn", "survey"]

Learn = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float64]], object]
"""Called with observations ``[n, obs_dim]``, the actions ``[n]`` that were taken there, and their rewards ``[n]``."""


def survey(parts: TrainingParts, listener: TrainListener, learn: Learn | None = None) -> None:
    """Apply every operator to every train task's own prompt, `TrainConfig.survey` times.

    An episode of any first operators, with *reset* between them, then needs no new generation.

    Args:
        parts: Tasks and backbone.
        listener: Follows it.
        learn: Called once a draw, for a learner that takes the steps as its own.
    """
    rollout, draws, layout = parts.rollout, parts.config.survey, parts.setup.layout
    actions = [a for a in rollout.context.table.actions if a.operator.generates]
    reset = rollout.context.table.names.index("reset")
    if not draws:
        return
    listener.stage("survey of the operators", draws * len(actions) * len(rollout.tasks))
    moves = [(rollout.start(i), action.index) for action in actions for i in range(len(rollout.tasks))]
    for _ in range(draws):
        allowed = [(e, action) for e, action in moves if not e.episode.done and e.episode.mask()[action]]
        if not allowed:
            break
        seen = [layout.observe(e.episode) for e, _ in allowed] if learn is not None else []
        # All at once, for no operator to wait for the slowest program of the one before.
        rewards = rollout.step(allowed, lambda: listener.advance(1))
        listener.advance(len(moves) - len(allowed))
        if learn is not None:
            learn(np.stack(seen), np.array([action for _, action in allowed]), np.asarray(rewards))
        rollout.step([(e, reset) for e, _ in moves if not e.episode.done and e.episode.mask()[reset]])
