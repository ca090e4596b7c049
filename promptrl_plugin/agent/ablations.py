"""Ablations: what `promptrl train --ablate` switches off, each a change of the configuration and nothing else.

They end up in the run folder and in the bundle, so an ablated policy is run as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from promptrl_plugin.config import TrainConfig
from promptrl_plugin.errors import UnknownNameError

__all__ = ["ABLATIONS", "ablate"]


def _without_kind(kind: str) -> Callable[[TrainConfig], TrainConfig]:
    return lambda c: replace(c, operator_kinds=tuple(k for k in c.operator_kinds if k != kind))


def _without_reward(weight: str) -> Callable[[TrainConfig], TrainConfig]:
    return lambda c: replace(c, reward=replace(c.reward, **{weight: 0.0}))


def _without_steps(c: TrainConfig) -> TrainConfig:
    return replace(c, ppo=replace(c.ppo, total_steps=0))


def _without_features(*blocks: str) -> Callable[[TrainConfig], TrainConfig]:
    return lambda c: replace(c, blank_features=(*(b for b in c.blank_features if b not in blocks), *blocks))


#: Name to what it does. *Revert*, *reset* and *stop* stay without direct operators; blank features are 0, not left out;
#: without PPO the warm start is what remains.
ABLATIONS: Mapping[str, Callable[[TrainConfig], TrainConfig]] = MappingProxyType(
    {
        "no-direct": _without_kind("direct"),
        "no-lexical": _without_kind("lexical"),
        "no-semantic": _without_kind("semantic"),
        "no-fraction-reward": _without_reward("w_fraction"),
        "no-compiles-reward": _without_reward("w_compiles"),
        "no-entry-point-reward": _without_reward("w_entry_point"),
        "no-success-reward": _without_reward("success_bonus"),
        "no-cost": _without_reward("generation_cost"),
        "no-task-embedding": _without_features("embedding"),
        "no-execution-features": _without_features("exec", "agreement"),
        "no-ppo": _without_steps,
    }
)


def ablate(config: TrainConfig, names: Sequence[str]) -> TrainConfig:
    """The configuration without what `names` switch off, one after the other.

    Raises:
        UnknownNameError: There is no such ablation.
    """
    for name in names:
        if name not in ABLATIONS:
            raise UnknownNameError("ablation", name, ABLATIONS)
        config = ABLATIONS[name](config)
    return config
