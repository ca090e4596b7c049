"""Training configurations: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin.config import TrainConfig, from_dict, load, to_dict
from promptrl_plugin.errors import ConfigError

RECIPES = sorted((Path(__file__).parent.parent / "promptrl_plugin" / "recipes").glob("*.toml"))


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
