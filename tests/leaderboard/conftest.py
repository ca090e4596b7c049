"""A finished comparison on the starter suite with real programs, made once, and entries of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "evaluation")]

from starter_board import BACKBONE, BUDGET, HIDDEN, SOLVED, SUITE, policy, sample  # noqa: E402

from promptrl_plugin.checking.judge import IsolatedJudge  # noqa: E402
from promptrl_plugin.config import JudgeConfig  # noqa: E402
from promptrl_plugin.evaluation.compare import outcomes_of  # noqa: E402
from promptrl_plugin.harnesses.samples import SampleFiles  # noqa: E402
from promptrl_plugin.leaderboard.add import ModelNotes, make_entry, open_comparison, write_entry  # noqa: E402
from promptrl_plugin.storage.runs import environment  # noqa: E402
from promptrl_plugin.suites.registry import load_suite  # noqa: E402


@pytest.fixture(scope="session")
def judge() -> Iterator[IsolatedJudge]:
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        yield judge


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, judge: IsolatedJudge) -> Path:
    """Folder with ``runs/compare``, as `promptrl compare` writes it, and the policies beside it."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    folder = runs / "compare"
    folder.mkdir(parents=True)
    config = {"suite": SUITE.name, "backbone": BACKBONE, "budget": BUDGET, "feedback": "visible", "policy": ""}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment()))
    samples, cells = {}, {}
    for cell, solved in SOLVED.items():
        samples[cell] = f"mbpp/{cell}.jsonl"
        with SampleFiles(folder / samples[cell], HIDDEN) as files:
            for i, task in enumerate(SUITE.tasks()):
                files.append(sample(task, i < solved, direct=cell == "direct-s0"))
        cells[cell] = [asdict(o) for o in outcomes_of(folder / samples[cell], SUITE, judge, BUDGET)]
    policies = {"best-fixed": "policies/s{seed}"}
    results = {"suite_version": SUITE.version, "samples": samples, "policies": policies, "cells": cells}
    (folder / "results.json").write_text(json.dumps(results))
    train = tuple(load_suite("starter-train").tasks())
    for seed in (0, 1):
        policy(train[seed:]).save(runs / "policies" / f"s{seed}")
    return runs


@pytest.fixture(scope="session")
def first_board(made: Path, judge: IsolatedJudge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    board = tmp_path_factory.mktemp("first") / "leaderboard"
    comparison = open_comparison(made / "compare")
    for row in comparison.rows:
        write_entry(board, *make_entry(comparison, row, judge, ModelNotes(link="https://example.org/coder")))
    return board


@pytest.fixture
def compare(made: Path, tmp_path: Path) -> Path:
    """A comparison of one's own to spoil."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs" / "compare"


@pytest.fixture
def board(first_board: Path, tmp_path: Path) -> Path:
    """A leaderboard of one's own to spoil."""
    shutil.copytree(first_board, tmp_path / "leaderboard")
    return tmp_path / "leaderboard"
