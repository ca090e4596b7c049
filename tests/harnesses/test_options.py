from __future__ import annotations

from pathlib import Path

import pytest

from promptrl_plugin.config import DEFAULT_BUDGET, EnvConfig
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.harnesses.evalplus import concerns_us, parse_flags
from promptrl_plugin.harnesses.options import Split, StrategyOptions, unknown_flag
from promptrl_plugin.records import Feedback

FLAGS = {"dataset": "mbpp", "model": "m", "backend": "hf", "dtype": "auto", "strategy": "best-of-k"}


def test_defaults() -> None:
    options = StrategyOptions.parse({"strategy": "promptrl", "policy": None, "seed": None})
    assert options == StrategyOptions("promptrl", None, DEFAULT_BUDGET, Feedback.VISIBLE, None, 0)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"budget": 0}, "--budget 1 or more"),
        ({"budget": "many"}, "--budget must be a whole number"),
        ({"budget": True}, "--budget must be a whole number"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"strategy": "direct", "seed": "-1"}, "--seed must be 0 or more"),
        ({"feedback": "hidden"}, "none, visible or oracle"),
        ({"selector": "vote"}, "first, agreement, or agreement:K"),
        ({"protocol": "paper", "budget": 20}, "at most 10 generations; leave out --budget"),
        ({"split": "crossfit:1"}, "crossfit:K"),
        ({"split": "holdout:5"}, "crossfit:K"),
        ({"split": "crossfit:5", "policy": "p"}, "leave out --policy"),
        ({"strategy": "best-of-k", "policy": "p"}, "is not trained; leave out --policy$"),
        ({"strategy": "direct", "split": "crossfit:5"}, "is not trained; leave out --split$"),
        ({"strategy": "random-hybrid", "split": "crossfit:5"}, "is not trained; leave out --split$"),
    ],
)
def test_values_that_cannot_work(given: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        StrategyOptions.parse({"strategy": "promptrl", **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["promptrl", "linucb", "best-fixed", "gepa"])
def test_what_is_trained_takes_a_policy_or_a_split(strategy: str) -> None:
    assert StrategyOptions.parse({"strategy": strategy, "policy": "runs/b"}).policy == Path("runs/b")
    assert StrategyOptions.parse({"strategy": strategy, "split": "crossfit:3"}).split == Split(3)


def test_random_choice_may_take_the_operators_of_a_policy() -> None:
    assert StrategyOptions.parse({"strategy": "random-hybrid", "policy": "runs/b"}).policy == Path("runs/b")


def test_direct_is_one_configuration_whatever_else_is_asked_for() -> None:
    one = StrategyOptions.parse({"strategy": "direct"})
    assert one == StrategyOptions.parse(
        {"strategy": "direct", "budget": 9, "seed": 4, "feedback": "oracle", "selector": "agreement"}
    )
    assert (one.budget, one.feedback, one.seed) == (1, Feedback.NONE, 0)


def test_the_selector_reaches_the_settings_of_an_episode() -> None:
    given = StrategyOptions.parse({"strategy": "best-of-k", "selector": "agreement:3", "budget": 4})
    assert given.env() == EnvConfig(budget=4, selector="agreement:3")
    assert StrategyOptions.parse({"strategy": "best-of-k"}).env() == EnvConfig()


def test_a_protocol_may_spend_less_than_it_allows() -> None:
    for budget in (1, 10):
        assert StrategyOptions.parse({"strategy": "epic", "protocol": "paper", "budget": budget}).budget == budget
    assert StrategyOptions.parse({"strategy": "epic", "budget": 20}).budget == 20


def test_split() -> None:
    assert Split.parse("crossfit:5") == Split(5)
    assert str(Split(5)) == "crossfit5"


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"n_samples": 10}, "--n_samples 10"),
        ({"temperature": 0.8}, "--temperature 0.8"),
        ({"version": "v0.1.0"}, "--version v0.1.0"),
        ({"jsonl_fmt": False}, "--jsonl_fmt False"),
        ({"evalperf_type": "instruct"}, "EvalPerf"),
        ({"bs": 8}, "own batches"),
        ({"tp": 2}, "--backend openai"),
        ({"trust_remote_code": True}, "is not run"),
        ({"dataset": "evalperf"}, "mbpp or humaneval"),
        ({"id_range": [5]}, "two numbers"),
        ({"id_range": [5, 5]}, "increasing"),
    ],
)
def test_flags_of_evalplus_that_a_strategy_cannot_honour(given: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_flags({**FLAGS, **given})


def test_flags_of_evalplus_that_are_carried_over() -> None:
    options = parse_flags(
        {
            **FLAGS,
            **{"root": "r", "resume": False, "id_range": [1, 9], "greedy": True, "tp": 1},
            **{"base_url": "http://x", "force_base_prompt": True, "n_samples": 1},
        }
    )
    assert (options.root, options.resume, options.id_range) == (Path("r"), False, (1, 9))
    backbone = options.backbone
    assert (backbone.base_url, backbone.force_base_prompt) == ("http://x", True)


@pytest.mark.parametrize(
    ("args", "ours"),
    [
        (["--strategy", "direct"], True),
        (["--strategy=direct"], True),
        (["--dataset", "mbpp", "--help"], True),
        (["-h"], True),
        (["--dataset", "mbpp", "--samples", "strategy.jsonl"], False),
        (["--model", "strategy", "--greedy"], False),
        ([], False),
    ],
)
def test_which_command_lines_are_ours(args: list[str], ours: bool) -> None:
    assert concerns_us(args) is ours


def test_misspelt_flag_gets_a_near_name() -> None:
    assert str(unknown_flag("bugdet", ["budget", "model"])) == "unknown flag --bugdet; did you mean --budget?"
