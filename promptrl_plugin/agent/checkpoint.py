"""All that changes how training goes on, in one file: a run resumed from it ends as an uninterrupted one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from promptrl_plugin import __version__
from promptrl_plugin.agent.tensorfile import load_tree
from promptrl_plugin.config import to_dict
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.storage.runs import environment

if TYPE_CHECKING:
    from promptrl_plugin.agent.ppo import PPO

__all__ = ["CHECKPOINT_VERSION", "get_state", "read_checkpoint", "set_state"]

CHECKPOINT_VERSION = 4


def get_state(agent: PPO) -> dict[str, Any]:
    """The state of an agent and its environments: nested JSON data and numpy arrays."""
    adam = agent.optimizer.state_dict()["state"]
    return {
        "version": CHECKPOINT_VERSION,
        "system": environment(),
        "config": to_dict(agent.config),
        "network": agent.policy.spec(),
        "seed": agent.seed,
        "num_timesteps": agent.num_timesteps,
        "num_rollouts": agent.num_rollouts,
        "policy": agent.policy.tensors(),
        "reference": None if agent.reference is None else agent.reference.tensors(),
        "optimizer": {str(i): {k: v.numpy().copy() for k, v in slot.items()} for i, slot in adam.items()},
        "generator": agent.generator.get_state().numpy().copy(),
        "live": agent.live.get_state(),
        "memory": None if agent.memory is None else agent.memory.get_state(),
    }


def set_state(agent: PPO, state: Mapping[str, Any]) -> None:
    """Go on from what `get_state` returned.

    Raises:
        ConfigError: Made by another version, network or configuration (`total_steps` may differ).
    """
    _check_fits(agent, state)
    agent.policy.load_tensors(state["policy"])
    if state["reference"] is not None:
        agent.anchor()
        assert agent.reference is not None
        agent.reference.load_tensors(state["reference"])
    slots = {
        int(i): {k: torch.from_numpy(np.array(v)) for k, v in slot.items()} for i, slot in state["optimizer"].items()
    }
    agent.optimizer.load_state_dict({**agent.optimizer.state_dict(), "state": slots})
    agent.generator.set_state(torch.from_numpy(np.array(state["generator"])))
    agent.seed, agent.num_timesteps, agent.num_rollouts = (
        state[name] for name in ("seed", "num_timesteps", "num_rollouts")
    )
    agent.live.set_state(state["live"])
    if agent.memory is not None:
        agent.memory.set_state(state["memory"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a file.

    Raises:
        ConfigError: It is missing or damaged.
    """
    try:
        state: dict[str, Any] = load_tree(path)
    except (OSError, ValueError) as e:
        raise ConfigError(
            f"cannot resume from {path} ({e}); train again in another folder: what was generated is in the cache"
        ) from None
    return state


def _check_fits(agent: PPO, state: Mapping[str, Any]) -> None:
    if state.get("version") != CHECKPOINT_VERSION:
        raise ConfigError(
            f"the checkpoint has format {state.get('version')}, this is promptrl {__version__} with format "
            f"{CHECKPOINT_VERSION}; resume it with the promptrl that wrote it, or train anew"
        )
    if state["network"] != agent.policy.spec():
        raise ConfigError("the checkpoint is of another action table or observation; train anew")
    mine = to_dict(dataclasses.replace(agent.config, total_steps=state["config"]["total_steps"]))
    differing = sorted(k for k in mine.keys() | state["config"].keys() if mine.get(k) != state["config"].get(k))
    if differing:
        raise ConfigError(f"the checkpoint was made with another {', '.join(differing)}; resume with the same")
