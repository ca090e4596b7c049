"""Uninterrupted runs, to compare killed ones with."""

from __future__ import annotations

from pathlib import Path

import pytest
from killable import Place

CONFIG = """
suite = "starter-train"
backbone = "scripted"
backend = "scripted"
embedder = "hash"
limit = 12
validate_every = 1
variants = 1
[env]
budget = 3
embedding_dim = 4
[ppo]
total_steps = 96
n_envs = 8
n_steps = 4
batch_size = 16
n_epochs = 2
replays = 1
[judge]
workers = 1
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a small training run."""
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Place:
    """A finished training run in ``work/run``."""
    place = Place(tmp_path_factory.mktemp("trained"))
    assert place.run_fresh("train", "--config", str(config), "--out", "run") == 0, place.output
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place where nothing has happened yet."""
    return Place(tmp_path)
