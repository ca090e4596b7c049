"""A PPO run that begins near the sequence of a best-fixed bundle, on the starter suite with a scripted backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_learners import SMALL, killed_and_resumed
from test_train import CONFIG, Silent, run_training, scripted  # noqa: F401  # a fixture

from promptrl_plugin.agent import parts as parts_module
from promptrl_plugin.agent.ablations import ablate
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.train import train
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.cli.training import _warm_started
from promptrl_plugin.config import TrainConfig, WarmStartConfig
from promptrl_plugin.env.rollout import RewardedEpisode, Rollout
from promptrl_plugin.errors import BundleError, ConfigError, UnknownNameError
from promptrl_plugin.storage.runs import RunFolder


class Watching(Silent):
    """Keeps the stages of a run, and the first operators of the episodes of the first rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.first: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def saw(self, rollout: Rollout, moves: Sequence[tuple[RewardedEpisode, int]]) -> None:
        if self.stages[-1] == "train" and len(self.first) < 2 * CONFIG.ppo.n_envs:
            self.first += [rollout.context.table.names[a] for e, a in moves if not e.episode.steps]


class KilledError(Exception):
    pass


class Killer(Silent):
    """Kills a run after its first rollout."""

    def metrics(self, values: dict[str, float]) -> None:
        if values["steps"]:
            raise KilledError


def test_without_ppo_the_policy_is_the_warm_start(tmp_path: Path, scripted: ScriptedBackbone) -> None:  # noqa: F811
    config = replace(CONFIG, warm_start=WarmStartConfig(sequence=("generate", "sample_hot")))
    run_training(tmp_path / "warm", ablate(config, ["no-ppo"]))
    assert [row["steps"] for row in RunFolder.open(tmp_path / "warm").metrics()] == [0.0]
    assert json.loads((tmp_path / "warm" / "selection.json").read_text())["steps"] == 0
    run_training(tmp_path / "after", replace(config, ppo=replace(config.ppo, total_steps=1)))
    (begun, *_), (only,) = (RunFolder.open(tmp_path / name).metrics() for name in ("after", "warm"))
    assert {k: v for k, v in only.items() if k.startswith("validation/")} == {
        k: v for k, v in begun.items() if k.startswith("validation/")
    }


@pytest.fixture
def fixed(tmp_path: Path, scripted: ScriptedBackbone) -> Path:  # noqa: F811
    return run_training(tmp_path / "fixed", replace(SMALL, learner="best-fixed"))


def watch(folder: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[PolicyBundle, Watching]:
    """Train, watching."""
    watching, run, step = Watching(), RunFolder.create(folder, config), Rollout.step

    def seen(rollout: Rollout, moves: Sequence[tuple[RewardedEpisode, int]]) -> list[float]:
        watching.saw(rollout, moves)
        return step(rollout, moves)

    with monkeypatch.context() as m:
        m.setattr(Rollout, "step", seen)
        parts = parts_module.build(config, watching)
        try:
            return PolicyBundle.load(train(parts, run, watching).bundle), watching
        finally:
            parts.close()


def test_training_begins_near_the_sequence(tmp_path: Path, fixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = PolicyBundle.load(fixed).network["sequence"]
    config = _warm_started(CONFIG, fixed)
    assert config == replace(CONFIG, warm_start=WarmStartConfig(sequence=tuple(sequence)))
    bundle, warm = watch(tmp_path / "warm", config, monkeypatch)
    _, cold = watch(tmp_path / "cold", CONFIG, monkeypatch)
    wanted = [w.first.count(sequence[0]) / len(w.first) for w in (warm, cold)]
    assert wanted[0] >= 0.35, "half of the time, less chance"
    assert wanted[1] <= 0.2
    assert warm.stages[-4:] == [cold.stages[-3], "warm start: " + ", ".join(sequence), *cold.stages[-2:]]
    rows = RunFolder.open(tmp_path / "warm").metrics()
    assert rows[0]["steps"] == 0
    assert 0 <= rows[0]["random/solved"] <= 1
    assert 0 <= rows[0]["warm_start/divergence"] < 0.5
    assert "warm_start/divergence" not in RunFolder.open(tmp_path / "cold").metrics()[0]
    assert bundle.train_config() == config


@pytest.mark.parametrize("replays", [0, 1])
def test_a_warm_started_run_resumes_exactly(tmp_path: Path, fixed: Path, replays: int) -> None:
    config = _warm_started(replace(CONFIG, ppo=replace(CONFIG.ppo, replays=replays)), fixed)
    config = replace(config, warm_start=replace(config.warm_start, steps=64, epochs=10))
    whole = PolicyBundle.load(run_training(tmp_path / "whole", config)).content_hash
    assert killed_and_resumed(tmp_path / "at once", config).content_hash == whole
    parts = parts_module.build(config, Silent())
    with pytest.raises(KilledError):
        train(parts, RunFolder.create(tmp_path / "later", config), Killer())
    parts.close()
    assert PolicyBundle.load(run_training(tmp_path / "later", config, resume=True)).content_hash == whole


def test_a_sequence_of_operators_that_the_run_does_not_have_is_refused(fixed: Path) -> None:
    config = _warm_started(CONFIG, fixed)
    config = replace(config, warm_start=replace(config.warm_start, sequence=("plan_firts",)))
    with pytest.raises(UnknownNameError, match="operator of this run 'plan_firts'; did you mean 'plan_first'"):
        parts_module.build(config, Silent())


def test_a_sequence_chosen_on_other_tasks_or_by_another_learner_is_refused(tmp_path: Path, fixed: Path) -> None:
    with pytest.raises(BundleError, match=r"seed .*--learner best-fixed"):
        _warm_started(replace(CONFIG, seed=CONFIG.seed + 1), fixed)
    with pytest.raises(ConfigError, match="--warm-start is for PPO"):
        _warm_started(replace(CONFIG, learner="linucb"), fixed)
    with pytest.raises(BundleError, match="of learner ppo"):
        _warm_started(CONFIG, run_training(tmp_path / "ppo"))
