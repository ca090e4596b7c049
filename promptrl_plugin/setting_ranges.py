"""Which values the numbers among the settings may have, by dotted name; see `promptrl_plugin.config.validate`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["RANGES", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Values that a number may have: from `low` to `high`, both included but for those in `without`."""

    text: str
    low: float
    high: float = math.inf
    without: tuple[float, ...] = (math.inf,)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value not in self.without  # nan is in no range


_FROM_0 = Range("0 or more", 0)
_FROM_1 = Range("1 or more", 1)
_ABOVE_0 = Range("above 0", 0, without=(0, math.inf))
_FINITE = Range("a finite number", -math.inf, without=(-math.inf, math.inf))
_SHARE = Range("from 0 to 1", 0, 1)
_SHARE_ABOVE_0 = Range("above 0 and at most 1", 0, 1, without=(0,))
_PART = Range("between 0 and 1, neither of them", 0, 1, without=(0, 1))

#: What every number among the settings may be; of a list, each of its elements.
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "generations": _FROM_0,
        "seed": _FROM_0,
        "limit": _FROM_0,
        "validation_fraction": _PART,
        "validate_every": _FROM_1,
        "survey": _FROM_0,
        "variants": _FROM_1,
        "env.budget": _FROM_1,
        "env.max_new_tokens": _FROM_1,
        "env.rewrite_max_new_tokens": _FROM_1,
        "env.warm_temperature": _FROM_0,
        "env.hot_temperature": _FROM_0,
        "env.top_p": _SHARE_ABOVE_0,
        "env.embedding_dim": _FROM_1,
        "reward.w_fraction": _FINITE,
        "reward.w_compiles": _FINITE,
        "reward.w_entry_point": _FINITE,
        "reward.success_bonus": _FINITE,
        "reward.generation_cost": _FINITE,
        "ppo.total_steps": _FROM_0,  # 0 under the ablation no-ppo
        "ppo.n_envs": _FROM_1,
        "ppo.n_steps": _FROM_1,
        "ppo.replays": _FROM_0,
        "ppo.batch_size": _FROM_1,
        "ppo.n_epochs": _FROM_1,
        "ppo.learning_rate": _FROM_0,
        "ppo.gamma": _SHARE_ABOVE_0,
        "ppo.gae_lambda": _SHARE,
        "ppo.clip_range": _ABOVE_0,
        "ppo.ent_coef_start": _FROM_0,
        "ppo.ent_coef_end": _FROM_0,
        "ppo.vf_coef": _FROM_0,
        "ppo.reference_kl_coef": _FROM_0,
        "ppo.max_grad_norm": _ABOVE_0,
        "ppo.target_kl": _ABOVE_0,
        "ppo.hidden_sizes": _FROM_1,
        "ppo.obs_clip": _ABOVE_0,
        "ppo.obs_min_std": _ABOVE_0,
        "warm_start.weight": _SHARE,
        "warm_start.steps": _FROM_1,
        "warm_start.epochs": _FROM_1,
        "linucb.alpha": _FROM_0,
        "linucb.ridge": _ABOVE_0,
        "gepa.minibatch": _FROM_1,
        "gepa.proposals": _FROM_1,
        "gepa.reflection_max_new_tokens": _FROM_1,
        "gepa.max_program_lines": _FROM_1,
        "judge.workers": _FROM_0,
        "judge.min_time_limit": _ABOVE_0,
        "judge.gt_time_limit_factor": _ABOVE_0,
        "judge.memory_bytes": _FROM_1,
    }
)
