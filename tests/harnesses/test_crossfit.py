"""Cross-fitting: every task gets a sample, and none from a policy that it trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.config import TrainConfig
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.harnesses import crossfit
from promptrl_plugin.harnesses.listener import TerminalListener
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
from promptrl_plugin.harnesses.samples import sibling
from promptrl_plugin.records import Feedback
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.strategies.direct import Direct
from promptrl_plugin.suites.registry import load_suite


class Recorder:
    """Stands for training and for the strategy; keeps who was trained on what, and who solved what."""

    def __init__(self) -> None:
        self.trained: dict[str, set[str]] = {}
        self.solved: dict[str, set[str]] = {}

    def train(self, config: Any, suite: crossfit.FoldSuite, folder: Path) -> Path:
        assert set(suite.hidden()) == {t.id for t in suite.tasks()}
        assert (config.backbone, config.seed, config.env.budget) == ("m", 3, 4)
        self.trained[str(folder)] = {t.id for t in suite.tasks()}
        return folder

    def open_strategy(self, options: StrategyOptions, backbone: Any) -> tuple[Any, str]:
        assert options.split is None
        recorder = self

        class Recording(Direct):
            def prepare(self, tasks: Any, context: Any) -> None:
                recorder.solved[str(options.policy)] = {t.id for t in tasks}

        return Recording(), ""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(crossfit, "_train", recorder.train)
    monkeypatch.setattr(crossfit, "open_strategy", recorder.open_strategy)
    return recorder


def options(tmp_path: Path, **strategy: Any) -> SolveOptions:
    given = {"strategy": "promptrl", "split": "crossfit:3", "budget": 4, "seed": 3, "feedback": "none", **strategy}
    return SolveOptions(StrategyOptions.parse(given), BackboneOptions("m"), "starter-test", tmp_path)


def test_every_task_is_solved_by_a_policy_that_never_saw_it(recorder: Recorder, tmp_path: Path) -> None:
    suite, backbone = load_suite("starter-test"), ScriptedBackbone({"": "x = 1"})
    path = crossfit.solve_crossfit(options(tmp_path), suite, backbone, TerminalListener())
    everything = {t.id for t in suite.tasks()}
    assert {line["task_id"] for line in read_jsonl(path)} == everything
    assert len(recorder.trained) == 3
    for folder, trained in recorder.trained.items():
        assert Path(folder).parent == sibling(path, ".folds")
        assert not trained & recorder.solved[folder]
        assert trained | recorder.solved[folder] == everything
    assert "crossfit3" in path.name


def test_a_finished_fold_is_not_trained_again(recorder: Recorder, tmp_path: Path) -> None:
    suite, backbone = load_suite("starter-test"), ScriptedBackbone({"": "x = 1"})
    path = crossfit.solve_crossfit(options(tmp_path), suite, backbone, TerminalListener())
    folder, owed = next(iter(recorder.solved.items()))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not any(f'"{task_id}"' in line for task_id in owed)))
    recorder.trained.clear()
    crossfit.solve_crossfit(options(tmp_path), suite, backbone, TerminalListener())
    assert list(recorder.trained) == [folder]
    assert len(read_jsonl(path)) == len(suite.tasks())


def test_a_range_of_ids_trains_the_folds_that_it_touches_and_solves_nothing_else(
    recorder: Recorder, tmp_path: Path
) -> None:
    suite, backbone = load_suite("starter-test"), ScriptedBackbone({"": "x = 1"})
    numbers = [int(t.id.rpartition("/")[2]) for t in suite.tasks()]
    one = replace(options(tmp_path), id_range=(numbers[0], numbers[0] + 1))
    path = crossfit.solve_crossfit(one, suite, backbone, TerminalListener())
    assert [line["task_id"] for line in read_jsonl(path)] == [suite.tasks()[0].id]
    ((folder, trained),) = recorder.trained.items()
    assert suite.tasks()[0].id not in trained
    assert len(trained) == len(suite.tasks()) * 2 // 3, "the folds are those of the whole suite"
    crossfit.solve_crossfit(options(tmp_path), suite, backbone, TerminalListener())
    assert recorder.trained[folder] == trained
    assert len(read_jsonl(path)) == len(suite.tasks())
    nothing = replace(one, id_range=(10**6, 10**6 + 1))
    with pytest.raises(ConfigError, match="--id_range"):
        crossfit.solve_crossfit(nothing, suite, backbone, TerminalListener())


def test_a_configuration_says_how_the_folds_train(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, backbone = load_suite("starter-test"), ScriptedBackbone({"": "x = 1"})
    configs: list[TrainConfig] = []

    def train(config: TrainConfig, suite: crossfit.FoldSuite, folder: Path) -> Path:
        configs.append(config)
        return recorder.train(config, suite, folder)

    monkeypatch.setattr(crossfit, "_train", train)
    settings = tmp_path / "settings.toml"
    settings.write_text("seed = 8\nsurvey = 2\n[env]\nbudget = 9\nmax_new_tokens = 99\n[ppo]\nn_envs = 5\n")
    path = crossfit.solve_crossfit(options(tmp_path, config=str(settings)), suite, backbone, TerminalListener())
    assert {(c.survey, c.ppo.n_envs, c.seed, c.env.budget, c.suite) for c in configs} == {(2, 5, 3, 4, suite.name)}
    assert {c.env.max_new_tokens for c in configs} == {99}
    assert crossfit.solve_crossfit(options(tmp_path), suite, backbone, TerminalListener()) != path
    with pytest.raises(ConfigError, match="--config says how --split trains"):
        options(tmp_path, split=None, config=str(settings))
    with pytest.raises(ConfigError, match="no configuration absent"):
        crossfit.solve_crossfit(options(tmp_path, config="absent"), suite, backbone, TerminalListener())


def test_oracle_feedback_is_refused(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="oracle"):
        crossfit.solve_crossfit(
            options(tmp_path, feedback=Feedback.ORACLE),
            load_suite("starter-test"),
            ScriptedBackbone({"": "x"}),
            TerminalListener(),
        )
    assert not recorder.trained


@pytest.mark.parametrize(("strategy", "learner"), [("promptrl", "ppo"), ("linucb", "linucb"), ("gepa", "gepa")])
def test_a_fold_trains_what_the_strategy_learns(strategy: str, learner: str):
    options = SolveOptions(StrategyOptions.parse({"strategy": strategy, "split": "crossfit:3"}))
    assert crossfit._train_config(options).learner == learner
