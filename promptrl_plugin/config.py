"""The only home of defaults. Every dataclass here ends up, resolved, in a run folder.

Each is frozen; `load` reads overrides from a TOML file whose tables are the field names of `TrainConfig`, and
`validate` says which values they may have.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptrl_plugin.errors import ConfigError
from promptrl_plugin.records import Feedback
from promptrl_plugin.setting_ranges import RANGES

__all__ = [
    "DEFAULT_AGREEING",
    "DEFAULT_BACKBONE",
    "DEFAULT_BUDGET",
    "DEFAULT_EMBEDDER",
    "DEFAULT_SUITE",
    "LEARNED",
    "PROTOCOLS",
    "SEEDLESS",
    "TAKES_POLICY",
    "EnvConfig",
    "GepaConfig",
    "JudgeConfig",
    "LinUCBConfig",
    "PPOConfig",
    "RewardConfig",
    "ServerConfig",
    "TrainConfig",
    "WarmStartConfig",
    "cache_dir",
    "env_of",
    "from_dict",
    "load",
    "recipes",
    "to_dict",
    "validate",
]

DEFAULT_BACKBONE = "smollm2-135m-instruct"
DEFAULT_EMBEDDER = "all-minilm-l6-v2"
DEFAULT_SUITE = "mbpp"
DEFAULT_BUDGET = 6
DEFAULT_AGREEING = 2  #: programs that must agree under ``selector=agreement``
PROTOCOLS = ("heldout", "paper")  #: see `env_of`
_RECIPES = Path(__file__).parent / "recipes"

#: Strategies that are trained, each with its learner (``promptrl train --learner``).
LEARNED: Mapping[str, str] = MappingProxyType(
    {"promptrl": "ppo", "linucb": "linucb", "best-fixed": "best-fixed", "gepa": "gepa"}
)
#: Strategies that draw nothing: one run stands for every seed.
SEEDLESS: frozenset[str] = frozenset({"direct"})
#: Strategies that may be given a policy. Random choice takes its operators and examples, nothing that was learned.
TAKES_POLICY: tuple[str, ...] = (*LEARNED, "random-hybrid")


def cache_dir() -> Path:
    """Folder of models, completions and verdicts: ``$PROMPTRL_CACHE`` or ``~/.cache/promptrl``."""
    return Path(os.environ.get("PROMPTRL_CACHE") or Path.home() / ".cache" / "promptrl")


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """Weights of ``r_t = γ Φ(s_{t+1}) − Φ(s_t) + b·[all tests pass] − c·(generations spent in t)``.

    ``Φ = w_fraction · best pass fraction + w_compiles · [compiles] + w_entry_point · [defines it]``.
    Setting a weight to 0 is the ablation of its term.
    """

    w_fraction: float = 1.0
    w_compiles: float = 0.05
    w_entry_point: float = 0.05
    success_bonus: float = 1.0  #: b
    generation_cost: float = 0.05  #: c


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """The episode: what may be spent and how code is decoded."""

    budget: int = DEFAULT_BUDGET  #: LLM generations an episode may spend, every call counted
    feedback: str = "visible"
    selector: str = "first"  #: of the final program, see `promptrl_plugin.env.selection`
    max_new_tokens: int = 768  #: of a program (EvalPlus's default)
    rewrite_max_new_tokens: int = 160  #: of a rewritten description
    warm_temperature: float = 0.4
    hot_temperature: float = 0.8
    top_p: float = 0.95
    embedding_dim: int = 16  #: principal components of the sentence embedding in the observation


def env_of(protocol: str) -> EnvConfig:
    """The episode under a protocol.

    ``heldout`` is the default. ``paper`` is the source paper's (arXiv 2605.19102): at most 10 steps, programs sampled
    at temperature 0.7 and top-p 0.9, and the tests that score a program are shown (`oracle`).

    Raises:
        ConfigError: There is no such protocol.
    """
    if protocol == "heldout":
        return EnvConfig()
    if protocol == "paper":
        return EnvConfig(budget=10, feedback="oracle", hot_temperature=0.7, top_p=0.9)
    raise ConfigError(f"protocol {protocol!r} is not known; use {' or '.join(PROTOCOLS)}")


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347) on masked actions."""

    total_steps: int = 8192
    n_envs: int = 32
    n_steps: int = 16  #: per environment and rollout, so a rollout has n_envs × n_steps transitions
    replays: int = 0  #: rollouts on what was generated before, after each rollout; they are not in total_steps
    batch_size: int = 64
    n_epochs: int = 5
    learning_rate: float = 3e-4  #: decays linearly to 0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef_start: float = 0.02
    ent_coef_end: float = 0.003
    vf_coef: float = 0.5
    reference_kl_coef: float = 0.0  #: weight of the divergence from the policy that PPO began with (a warm start's)
    max_grad_norm: float = 0.5
    target_kl: float | None = 0.015
    normalize_advantage: bool = True
    hidden_sizes: tuple[int, ...] = (64, 64)
    obs_clip: float = 10.0  #: normalised observations are clipped to ±obs_clip
    obs_min_std: float = 0.1  #: floor of a feature's standard deviation (features are of order one)


@dataclass(frozen=True, slots=True)
class LinUCBConfig:
    """LinUCB with disjoint linear models (Li et al. 2010, arXiv 1003.0146, algorithm 1); n_envs etc. are PPO's."""

    alpha: float = 0.5  #: width of the confidence bound in training; the mean alone decides at evaluation
    ridge: float = 1.0  #: λ of the ridge regression, A_a = λI at first (1 in the paper)


@dataclass(frozen=True, slots=True)
class GepaConfig:
    """GEPA (arXiv 2507.19457) through the package ``gepa``; what is not here is that package's default."""

    minibatch: int = 3  #: train tasks that one reflection looks at (the package's default)
    proposals: int = 16  #: made and scored in one batch, each from a parent and tasks of its own; fewer as the train
    #: generations run out; 1 (the package's default) makes one after another
    reflection_max_new_tokens: int = 512
    max_program_lines: int = 30  #: of a program that is shown to the reflecting LLM


@dataclass(frozen=True, slots=True)
class WarmStartConfig:
    """Behaviour cloning before PPO (`agent.warm_start`)."""

    sequence: tuple[str, ...] = ()  #: operators to begin with, e.g. those of a best-fixed policy; none: no warm start
    weight: float = 0.5  #: probability of the demonstrated operator; the rest is spread over all allowed ones
    steps: int = 384  #: collected to learn from
    epochs: int = 20


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The judge of programs. Time limits follow EvalPlus (`evalplus.config`)."""

    workers: int = 0  #: 0: one per core
    min_time_limit: float = 1.0  #: seconds per test (EvalPlus's DEFAULT_MIN_TIME_LIMIT)
    gt_time_limit_factor: float = 4.0  #: times the reference's own time (DEFAULT_GT_TIME_LIMIT_FACTOR)
    memory_bytes: int = 4 * 1024**3  #: address space of the program, as EvalPlus
    verdicts: str = "strict"  #: "strict" or "evalplus" (reproduces EvalPlus's known errors)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How to talk to an OpenAI-compatible server."""

    concurrency: int = 16  #: requests in flight on each server
    timeout: float = 600.0  #: seconds for one reply
    max_retries: int = 5  #: after a refused connection, 429 or 5xx; then it is an error
    backoff: float = 0.5  #: seconds before the first retry, doubled at each, with jitter
    max_backoff: float = 30.0  #: seconds, also of a server's Retry-After


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole training run."""

    learner: str = "ppo"  #: what is trained: a value of `LEARNED`
    generations: int = 0  #: train generations of the other learners (0: ppo.total_steps); PPO's follow from its steps
    suite: str = "mbpp-train"
    backbone: str = DEFAULT_BACKBONE
    backend: str = "hf"  #: as EvalPlus's --backend
    dtype: str = "auto"
    base_url: str = ""  #: of an OpenAI-compatible server, or of its replicas with commas between them
    rewriter: str = ""  #: "" is the backbone itself
    embedder: str = DEFAULT_EMBEDDER
    seed: int = 0
    limit: int = 0  #: use only that many train tasks (0: all)
    example_suite: str = "examples"  #: solved tasks that operators may show; it ships with the package
    validation_fraction: float = 0.15  #: of the train tasks, held out for checkpoint selection
    validate_every: int = 4  #: rollouts between validations
    generated_tests: bool = False  #: where a task has no plus test, also reward what its reference returns on probes
    survey: int = 0  #: before PPO or LinUCB, draws of every operator from every train task's own prompt
    variants: int = 2  #: distinct sampling seeds that repeated episodes on one task cycle through
    operator_kinds: tuple[str, ...] = ("direct", "lexical", "semantic")
    operators: tuple[str, ...] = ()  #: only these of the operators of those kinds (none named: all of them)
    blank_features: tuple[str, ...] = ()  #: blocks of the observation that are always 0, e.g. "exec" (an ablation)
    env: EnvConfig = field(default_factory=EnvConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    linucb: LinUCBConfig = field(default_factory=LinUCBConfig)
    gepa: GepaConfig = field(default_factory=GepaConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a config dataclass, for JSON (tuples become lists)."""
    return {
        f.name: to_dict(v)
        if dataclasses.is_dataclass(v := getattr(config, f.name))
        else list(v)
        if isinstance(v, tuple)
        else v
        for f in dataclasses.fields(config)
    }


def from_dict(cls: type[Any], data: dict[str, Any], where: str = "") -> Any:
    """Build config dataclass `cls` from plain data.

    Raises:
        ConfigError: A key that `cls` does not have, or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    defaults = cls()
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            raise ConfigError(f"unknown setting {where}{key}; known: {', '.join(sorted(fields))}")
        default = getattr(defaults, key)
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key} must be a table, not {value!r}")
            values[key] = from_dict(type(default), value, f"{where}{key}.")
        elif isinstance(default, tuple):
            kind = type(default[0]) if default else str
            if not isinstance(value, list | tuple) or any(type(v) is not kind for v in value):
                raise ConfigError(f"{where}{key} must be a list of {kind.__name__}, not {value!r}")
            values[key] = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            values[key] = float(value)
        elif default is not None and value is not None and type(value) is not type(default):
            raise ConfigError(f"{where}{key} must be of type {type(default).__name__}, not {value!r}")
        else:
            values[key] = value
    return cls(**values)


def recipes() -> dict[str, Path]:
    """Training configurations that ship with the package, by the alias of the model that they are for."""
    return {path.stem: path for path in sorted(_RECIPES.glob("*.toml"))}


def validate(config: TrainConfig) -> TrainConfig:
    """`config`, if every setting has a value that can work; those of a warm start count only where there is one.

    Raises:
        ConfigError: One has not; names it, its value and what is allowed.
    """
    for name, allowed in RANGES.items():
        table, _, field_name = name.rpartition(".")
        if table == "warm_start" and not config.warm_start.sequence:
            continue
        value = getattr(getattr(config, table) if table else config, field_name)
        if value is not None and any(v not in allowed for v in (value if isinstance(value, tuple) else (value,))):
            shown = list(value) if isinstance(value, tuple) else value
            each = "each of " if isinstance(value, tuple) else ""
            raise ConfigError(f"{each}{name} must be {allowed.text}, not {shown!r}")
    if config.env.feedback not in tuple(Feedback):  # oracle is refused by what trains, which says why
        raise ConfigError(f"env.feedback must be visible or none, not {config.env.feedback!r}")
    return config


def load(path: Path) -> TrainConfig:
    """Read a TOML file of overrides; a name without a file of that name is one of `recipes`.

    Raises:
        ConfigError: The file is missing, is not TOML, or holds a setting that does not exist or cannot work.
    """
    if not path.exists() and path.parent == Path() and path.suffix != ".toml":
        if str(path) not in recipes():
            raise ConfigError(f"no configuration {path}; give a TOML file or one of {', '.join(recipes())}")
        path = recipes()[str(path)]
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(
            f"cannot read configuration {path} ({e.strerror}); check the path, or name a recipe that ships "
            f"(promptrl_plugin/recipes): {', '.join(recipes())}"
        ) from None
    except ValueError as e:  # also of a file that is not UTF-8
        raise ConfigError(f"cannot read configuration {path}: it is not TOML ({e}); mend it there") from None
    config: TrainConfig = from_dict(TrainConfig, data)
    return validate(config)
