"""What a user can ask of a strategy, on any harness's command line: names, defaults, checks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptrl_plugin.config import (
    DEFAULT_AGREEING,
    DEFAULT_BACKBONE,
    DEFAULT_BUDGET,
    DEFAULT_SUITE,
    LEARNED,
    PROTOCOLS,
    TAKES_POLICY,
    EnvConfig,
    env_of,
)
from promptrl_plugin.env.selection import Selector
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.plugins import plugin_names
from promptrl_plugin.records import Feedback

__all__ = [
    "STRATEGY_FLAGS",
    "BackboneOptions",
    "SolveOptions",
    "Split",
    "StrategyOptions",
    "check_budget",
    "unknown_flag",
]

#: The flags that we add to a harness, with the text of their help.
STRATEGY_FLAGS: Mapping[str, str] = {
    "strategy": "prompting strategy: direct, best-of-k, greedy-best-of-k, epic, reflexion, random-hybrid, best-fixed, "
    "linucb, gepa or promptrl",
    "policy": "policy bundle of a strategy that is trained: best-fixed, linucb, gepa or promptrl (default: the one "
    "that ships for the model); random-hybrid then chooses among that policy's operators",
    "budget": f"LLM generations that the strategy may spend on one task (default: {DEFAULT_BUDGET})",
    "feedback": "what execution the strategy may see: none, visible (default) or oracle (marked, for comparison only)",
    "selector": "when to stop and what to submit: first (default: the first program that passes the visible tests) or "
    f"agreement (the first of {DEFAULT_AGREEING} that also do the same on inputs generated from the visible ones; "
    "agreement:K asks for K)",
    "split": "crossfit:K trains on K-1 folds of the suite and solves the other, for every fold",
    "config": "how --split trains: a TOML file of settings as for promptrl train, or a recipe that ships (default: the "
    "defaults of promptrl train)",
    "seed": "seed of all sampling (default: 0)",
    "protocol": "heldout (default), or paper: the source paper's, with oracle feedback, at most 10 generations, "
    "temperature 0.7 and top-p 0.9 (marked, for comparison only)",
}


@dataclass(frozen=True, slots=True)
class Split:
    """How a suite is split where it is at once trained and tested on; no fold trains its own policy."""

    folds: int

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read ``crossfit:K``.

        Raises:
            ConfigError: Anything else, or fewer than 2 folds.
        """
        kind, _, number = text.partition(":")
        if kind != "crossfit" or not number.isdecimal() or int(number) < 2:
            raise ConfigError(f"--split {text!r} is not known; use crossfit:K with K of 2 or more, e.g. crossfit:5")
        return cls(int(number))

    def __str__(self) -> str:
        return f"crossfit{self.folds}"


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """The flags of `STRATEGY_FLAGS`, checked."""

    strategy: str
    policy: Path | None = None
    budget: int = DEFAULT_BUDGET
    feedback: Feedback = Feedback.VISIBLE
    split: Split | None = None
    seed: int = 0
    selector: Selector = field(default_factory=Selector)
    protocol: str = PROTOCOLS[0]
    config: Path | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> StrategyOptions:
        """Check values as a command line or a JSON object gives them; None stands for the default.

        Raises:
            ConfigError: A value that cannot work.
        """
        values = {k: v for k, v in given.items() if v is not None}
        policy, split, config = values.get("policy"), values.get("split"), values.get("config")
        protocol = str(values.get("protocol", PROTOCOLS[0]))
        usual = env_of(protocol)
        options = cls(
            strategy=str(values.get("strategy", "")),
            policy=Path(str(policy)).expanduser() if policy else None,
            budget=_integer("budget", values.get("budget", usual.budget)),
            feedback=_feedback(values.get("feedback", usual.feedback)),
            split=Split.parse(str(split)) if split else None,
            seed=_integer("seed", values.get("seed", 0)),
            selector=Selector.parse(str(values.get("selector", usual.selector))),
            protocol=protocol,
            config=Path(str(config)).expanduser() if config else None,
        )
        if options.feedback.value != usual.feedback and protocol != PROTOCOLS[0]:
            raise ConfigError(f"--protocol {protocol} shows {usual.feedback} feedback; leave out --feedback")
        if options.budget < 1:
            raise ConfigError(f"a budget of {options.budget} generations solves nothing; use --budget 1 or more")
        if options.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, not {options.seed}")
        check_budget(protocol, options.budget)
        if options.split and options.policy:
            raise ConfigError("--split trains its own policies; leave out --policy")
        if options.config and not options.split:
            raise ConfigError("--config says how --split trains; add --split crossfit:5, or leave it out")
        for flag, value, takers in (("--policy", options.policy, TAKES_POLICY), ("--split", options.split, LEARNED)):
            # What another package's strategy does with a policy is its own affair.
            theirs = flag == "--policy" and options.strategy in plugin_names("promptrl.strategies")
            if value and options.strategy not in takers and not theirs:
                raise ConfigError(f"strategy {options.strategy!r} is not trained; leave out {flag}")
        if options.strategy == "direct":  # one greedy generation, whatever else is asked for: one name for one result
            return cls("direct", budget=1, feedback=Feedback.NONE)
        return options

    def env(self) -> EnvConfig:
        """The settings of an episode that these options decide; the others are the defaults."""
        return replace(
            env_of(self.protocol), budget=self.budget, feedback=self.feedback.value, selector=str(self.selector)
        )


@dataclass(frozen=True, slots=True)
class BackboneOptions:
    """Which LLM, and how it runs; the words are EvalPlus's.

    Attributes:
        force_base_prompt: Use the plain form of prompts although the model has a chat template.
    """

    model: str = DEFAULT_BACKBONE
    backend: str = "hf"
    dtype: str = "auto"
    base_url: str | None = None
    force_base_prompt: bool = False


@dataclass(frozen=True, slots=True)
class SolveOptions:
    """Everything between a command line and a samples file.

    Attributes:
        suite: Name of the suite; decides the folder under `root`.
        root: Folder of results (EvalPlus's ``--root``).
        resume: Go on with an existing samples file; otherwise it is set aside.
        id_range: Solve only tasks with ``low <= number < high`` in their id.
        out: Samples file to write instead of the one named by the configuration.
    """

    strategy: StrategyOptions
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    suite: str = DEFAULT_SUITE
    root: Path = Path("evalplus_results")
    resume: bool = True
    id_range: tuple[int, int] | None = None
    out: Path | None = None

    def with_policy(self, policy: Path) -> SolveOptions:
        """The same with another policy and without a split: one fold of a cross-fit."""
        return replace(self, strategy=replace(self.strategy, policy=policy, split=None, config=None))


def check_budget(protocol: str, budget: int) -> None:
    """Refuse to spend more than a protocol allows; less is allowed.

    Raises:
        ConfigError: It is more, or there is no such protocol.
    """
    most = env_of(protocol).budget
    if protocol != PROTOCOLS[0] and budget > most:
        raise ConfigError(
            f"--protocol {protocol} spends at most {most} generations; leave out --budget, or use one up to that"
        )


def unknown_flag(name: str, known: Iterable[str]) -> ConfigError:
    """The error for a flag that neither the harness nor promptrl has."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    hint = f"did you mean --{near[0]}?" if near else "see --help"
    return ConfigError(f"unknown flag --{name}; {hint}")


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError(f"--{name} must be a whole number, not {value!r}")
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"--{name} must be a whole number, not {value!r}") from None


def _feedback(value: object) -> Feedback:
    try:
        return Feedback(str(value).lower())
    except ValueError:
        raise ConfigError(f"--feedback must be none, visible or oracle, not {value!r}") from None
