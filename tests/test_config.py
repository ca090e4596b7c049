"""Training configurations: what is read, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin.config import TrainConfig, WarmStartConfig, from_dict, load, recipes, to_dict, validate
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.setting_ranges import RANGES

ROOT = Path(__file__).parent.parent
RECIPES = sorted([*recipes().values(), *(ROOT / "benchmarks" / "configs").glob("*.toml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_survive_a_round_trip(path: Path) -> None:
    config = load(path)
    assert config != TrainConfig()
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"operator": []}, "unknown setting operator; known: .*operators"),
        ({"ppo": 3}, "ppo must be a table"),
        ({"ppo": {"gamma": "1"}}, "ppo.gamma must be of type float"),
        ({"blank_features": "exec"}, "blank_features must be a list of str, not 'exec'"),
        ({"ppo": {"hidden_sizes": ["64"]}}, "ppo.hidden_sizes must be a list of int"),
    ],
)
def test_values_of_another_form_are_refused(data: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        from_dict(TrainConfig, data)


def numbers(data: dict[str, Any], where: str = "") -> Iterator[str]:
    """Dotted names of the settings that are numbers or lists of them."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{where}{name}.")
        else:
            some = value if isinstance(value, list) else [value]
            if some and all(isinstance(v, int | float) and not isinstance(v, bool) for v in some):
                yield where + name


def test_every_number_has_a_range():
    assert set(RANGES) == set(numbers(to_dict(TrainConfig())))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = -1", "seed must be 0 or more, not -1"),
        ("limit = -1", "limit must be 0 or more, not -1"),
        ("validate_every = 0", "validate_every must be 1 or more, not 0"),
        ("variants = 0", "variants must be 1 or more, not 0"),
        ("survey = -1", "survey must be 0 or more, not -1"),
        ("validation_fraction = 0", "validation_fraction must be between 0 and 1, neither of them, not 0.0"),
        ("validation_fraction = 1.0", "validation_fraction must be between 0 and 1, neither of them, not 1.0"),
        ("[env]\nbudget = 0", "env.budget must be 1 or more, not 0"),
        ("[env]\nbudget = -1", "env.budget must be 1 or more, not -1"),
        ("[env]\nmax_new_tokens = 0", "env.max_new_tokens must be 1 or more, not 0"),
        ("[env]\nfeedback = 'foo'", "env.feedback must be visible or none, not 'foo'"),
        ("[env]\ntop_p = 0", "env.top_p must be above 0 and at most 1, not 0.0"),
        ("[reward]\ngeneration_cost = nan", "reward.generation_cost must be a finite number, not nan"),
        ("[ppo]\nn_envs = 0", "ppo.n_envs must be 1 or more, not 0"),
        ("[ppo]\nn_steps = 0", "ppo.n_steps must be 1 or more, not 0"),
        ("[ppo]\nbatch_size = 0", "ppo.batch_size must be 1 or more, not 0"),
        ("[ppo]\nhidden_sizes = [64, 0]", "each of ppo.hidden_sizes must be 1 or more, not [64, 0]"),
        ("[ppo]\nlearning_rate = -1e-3", "ppo.learning_rate must be 0 or more, not -0.001"),
        ("[ppo]\nlearning_rate = inf", "ppo.learning_rate must be 0 or more, not inf"),
        ("[ppo]\ngamma = 0", "ppo.gamma must be above 0 and at most 1, not 0.0"),
        ("[ppo]\ngamma = 1.01", "ppo.gamma must be above 0 and at most 1, not 1.01"),
        ("[warm_start]\nsequence = ['generate']\nsteps = 0", "warm_start.steps must be 1 or more, not 0"),
        ("[judge]\nworkers = -1", "judge.workers must be 0 or more, not -1"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load(tmp_path / "c.toml")


def test_the_ends_of_ranges_can_work(tmp_path: Path):
    (tmp_path / "c.toml").write_text(
        "validation_fraction = 0.01\n[env]\nbudget = 1\nhot_temperature = 0\n[ppo]\ngamma = 1\ntotal_steps = 0\n"
        "[warm_start]\nsteps = 0\n[judge]\nworkers = 0\n"
    )
    config = load(tmp_path / "c.toml")
    assert (config.env.budget, config.ppo.gamma, config.warm_start.steps) == (1, 1.0, 0)
    with pytest.raises(ConfigError, match=r"warm_start\.steps"):
        validate(replace(config, warm_start=WarmStartConfig(("generate",), steps=0)))


def test_a_configuration_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"\(No such file or directory\); check the path.*smollm2-135m-instruct") as e:
        load(tmp_path / "nope.toml")
    assert "Errno" not in str(e.value)
    for content in (b"seed = \n", b'suite = "\xe9"\n'):
        (tmp_path / "c.toml").write_bytes(content)
        with pytest.raises(ConfigError, match="it is not TOML"):
            load(tmp_path / "c.toml")
