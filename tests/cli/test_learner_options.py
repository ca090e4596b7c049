"""Options of `promptrl train` and `promptrl compare` that choose what is learned and which policy is run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from promptrl_plugin.cli import main as cli
from promptrl_plugin.cli import training, training_runs
from promptrl_plugin.cli.compare import parse_policies
from promptrl_plugin.cli.training import _of_one_run
from promptrl_plugin.cli.training_runs import run_training
from promptrl_plugin.config import RewardConfig, TrainConfig
from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.storage.runs import RunFolder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[TrainConfig, Path]]:
    """What `promptrl train` would train, and where."""
    seen: list[tuple[TrainConfig, Path]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "run_trainings", lambda runs, *, resume, command: seen.extend(runs))
    return seen


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["promptrl", "train", "--model", "m", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_learner_and_ablations_are_in_the_configuration_and_the_folders_name(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[TrainConfig, Path]]
):
    assert train(monkeypatch) == 0
    assert train(monkeypatch, "--learner", "linucb", "--generations", "500", "--seed", "2") == 0
    assert train(monkeypatch, "--ablate", "no-lexical", "--ablate", "no-cost") == 0
    (plain, plain_folder), (bandit, bandit_folder), (ablated, ablated_folder) = asked
    assert (plain.learner, plain_folder) == ("ppo", Path("runs/m-mbpp-train-seed0"))
    assert (bandit.learner, bandit.generations) == ("linucb", 500)
    assert bandit_folder == Path("runs/m-mbpp-train-linucb-seed2")
    assert (ablated.operator_kinds, ablated.reward.generation_cost) == (("direct", "semantic"), 0.0)
    assert ablated_folder == Path("runs/m-mbpp-train-no-lexical-no-cost-seed0")


@pytest.mark.parametrize(
    ("arguments", "remedy"), [([], "--warm-start BUNDLE"), (["--learner", "linucb"], "leaves the warm start of PPO")]
)
def test_without_ppo_something_must_be_learned(
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[TrainConfig, Path]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    remedy: str,
):
    assert train(monkeypatch, "--ablate", "no-ppo", *arguments) == 2
    assert remedy in capsys.readouterr().err
    assert train(monkeypatch, "--ablate", "no-ppo", "--config", "qwen2.5-coder-0.5b-instruct") == 0
    ((config, folder),) = asked
    assert (config.ppo.total_steps, folder.name) == (0, "m-mbpp-train-no-ppo-seed0")


def test_like_takes_over_settings_and_what_was_spent(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[TrainConfig, Path]], tmp_path: Path
):
    config = replace(TrainConfig(), limit=7, reward=RewardConfig(generation_cost=0.01))
    run = RunFolder.create(tmp_path / "ppo", config)
    run.log({"steps": 10, "generations/distinct": 100.0})
    run.log({"steps": 20, "generations/distinct": 181.0})
    run.close()
    assert train(monkeypatch, "--like", "ppo", "--learner", "gepa") == 2, "it has no bundle yet"
    (tmp_path / "ppo" / "bundle").mkdir()
    assert train(monkeypatch, "--like", "ppo", "--learner", "gepa", "--seed", "1") == 0
    assert train(monkeypatch, "--like", "ppo", "--ablate", "no-semantic") == 0
    (gepa, _), (ppo, _) = asked
    assert gepa == replace(config, backbone="m", learner="gepa", generations=181, seed=1)
    assert ppo == replace(config, backbone="m", operator_kinds=("direct", "lexical"))


@pytest.mark.parametrize("seeds", [["--seeds", "0,7"], ["--seeds=0,7"]])
def test_a_bundle_of_several_seeds_names_the_command_of_its_own(seeds: list[str]) -> None:
    words = ["train", "--config", "a recipe", *seeds, "--out", "runs/it-seed{seed}", "--resume"]
    told = shlex.split(_of_one_run(words, replace(TrainConfig(), seed=7)))
    assert told[:4] == ["promptrl", "train", "--config", "a recipe"]
    assert told[4:-3] in (["--seed", "7"], ["--seed=7"])
    assert told[-3:] == ["--out", "runs/it-seed7", "--resume"]
    alone = ["train", "--seed", "3", "--out", "runs/x"]
    assert _of_one_run(alone, replace(TrainConfig(), seed=3)) == "promptrl train --seed 3 --out runs/x"


@pytest.mark.parametrize("learner", [["--learner", "linucb,gepa"], ["--learner=linucb,gepa"]])
def test_a_bundle_of_several_learners_names_the_command_of_its_own(learner: list[str]) -> None:
    words = ["train", *learner, "--like", "runs/seed{seed}", "--seeds", "0,1", "--out", "runs/{learner}{seed}"]
    told = shlex.split(_of_one_run(words, replace(TrainConfig(), seed=1, learner="gepa")))
    assert told[2:-6] in (["--learner", "gepa"], ["--learner=gepa"])
    assert told[-6:] == ["--like", "runs/seed1", "--seed", "1", "--out", "runs/gepa1"]


def test_several_seeds_are_a_run_each_with_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[TrainConfig, Path]], tmp_path: Path
):
    for seed in (3, 5):
        run = RunFolder.create(tmp_path / f"ppo{seed}", replace(TrainConfig(), seed=seed))
        run.log({"steps": 10, "generations/distinct": 100.0 + seed})
        run.close()
        (tmp_path / f"ppo{seed}" / "bundle").mkdir()
    assert (
        train(monkeypatch, "--learner", "gepa", "--like", "ppo{seed}", "--seeds", "3,5,3", "--out", "gepa-{seed}") == 0
    )
    assert [(c.seed, c.generations, f) for c, f in asked] == [(3, 103, Path("gepa-3")), (5, 105, Path("gepa-5"))]
    asked.clear()
    assert train(monkeypatch, "--seeds", "0, 1") == 0
    assert [f.name for _, f in asked] == ["m-mbpp-train-seed0", "m-mbpp-train-seed1"]
    asked.clear()
    assert train(monkeypatch, "--seed", "4", "--out", "run{seed}") == 0
    assert [f.name for _, f in asked] == ["run4"]


def test_several_learners_and_seeds_are_a_run_each(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[TrainConfig, Path]]
):
    several = ("--learner", "linucb, gepa,linucb", "--generations", "9", "--seeds", "0,1")
    assert train(monkeypatch, *several, "--out", "{learner}-{seed}") == 0
    names = ["linucb-0", "linucb-1", "gepa-0", "gepa-1"]
    assert [(f"{c.learner}-{c.seed}", f.name, c.generations) for c, f in asked] == [(n, n, 9) for n in names]
    asked.clear()
    assert train(monkeypatch, *several) == 0
    assert [f.name for _, f in asked][1:3] == ["m-mbpp-train-linucb-seed1", "m-mbpp-train-gepa-seed0"]
    asked.clear()
    assert train(monkeypatch, "--learner", "gepa", "--seed", "2", "--out", "it/{learner}") == 0
    assert [f for _, f in asked] == [Path("it/gepa")]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--learner", "gepa,linucb", "--seeds", "0,1", "--out", "run"), "--out 'run{seed}{learner}'"),
        (("--learner", "gepa,linucb", "--out", "run"), "--out 'run{learner}'"),
        (("--learner", "gepa,"), "unknown learner"),
        (("--seeds", "0,1", "--seed", "2"), "leave out --seed"),
        (("--seeds", "0,1", "--out", "run"), "--out 'run{seed}'"),
        (("--seeds", "one"), "separated by commas"),
        (("--seeds", ","), "separated by commas"),
        (("--seeds", "0,-1"), "0 or more"),
        (("--seed", "-1"), "seed must be 0 or more, not -1"),
        (("--feedback", "foo"), "env.feedback must be visible or none, not 'foo'"),
        (("--ablate", "no-lexicals"), "no-lexical"),
        (("--generations", "5"), "follows from its --steps"),
        (("--learner", "linucb", "--generations", "0"), "--generations 1 or more"),
        (("--steps", "0"), "--steps 1 or more"),
        (("--limit", "-1"), "use 1 or more"),
        (("--like", "nowhere"), "holds no run"),
        (("--like", "a", "--config", "b"), "leave out --config"),
    ],
)
def test_what_cannot_work_is_one_line_with_the_remedy(
    arguments: tuple[str, ...],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[TrainConfig, Path]],
    capsys: pytest.CaptureFixture[str],
):
    assert train(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not asked


def test_generations_of_a_configuration_are_for_the_other_learners(
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[TrainConfig, Path]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    (tmp_path / "g.toml").write_text("generations = 5\n")
    assert train(monkeypatch, "--config", "g.toml") == 2
    error = capsys.readouterr().err
    assert error.startswith("promptrl: generations = 5 in g.toml is for the other learners")
    assert error.count("\n") == 1
    assert train(monkeypatch, "--config", "g.toml", "--learner", "linucb") == 0
    assert [c.generations for c, _ in asked] == [5]


def test_a_damaged_run_is_nothing_to_be_like(
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[TrainConfig, Path]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    run = RunFolder.create(tmp_path / "ppo", TrainConfig())
    run.log({"steps": 10, "generations/distinct": 100.0})
    run.close()
    (tmp_path / "ppo" / "bundle").mkdir()
    run.config_path.write_text("[]")
    assert train(monkeypatch, "--like", "ppo", "--learner", "linucb") == 2
    assert "config.json holds no settings; start the run again elsewhere" in capsys.readouterr().err
    assert not asked


def test_an_unknown_learner_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="best-fixed"):
        run_training(replace(TrainConfig(), learner="best-fix"), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_policies_of_a_comparison():
    assert parse_policies([]) == {}
    assert parse_policies(["runs/s{seed}/bundle"]) == {"promptrl": "runs/s{seed}/bundle"}
    assert parse_policies(["runs/a=b/bundle"]) == {"promptrl": "runs/a=b/bundle"}
    given = ["promptrl=p", "linucb=l=x", "promptrl:no-semantic=a", "best-fixed=f"]
    wanted = {"promptrl": "p", "linucb": "l=x", "promptrl:no-semantic": "a", "best-fixed": "f"}
    assert parse_policies(given) == wanted


@pytest.mark.parametrize("given", [["p", "promptrl=q"], ["linucb="], ["promptrl:=p"]])
def test_policies_that_cannot_work(given: list[str]):
    with pytest.raises(ConfigError, match="NAME:LABEL=PATH"):
        parse_policies(given)


def test_policies_of_what_is_not_trained():
    with pytest.raises(UnknownNameError, match="linucb"):
        parse_policies(["linucbb=p"])
    with pytest.raises(UnknownNameError):
        parse_policies(["direct:a=p"])


def test_a_resumed_run_says_which_options_it_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(suite="starter-train", seed=3)
    RunFolder.create(tmp_path / "run", config)
    other = replace(config, seed=5, env=replace(config.env, budget=2))
    resolved, begun, _ = training_runs._checked(other, tmp_path / "run", resume=True)
    assert (resolved, begun) == (config, True)
    said = capsys.readouterr()
    assert "these would differ: seed, env.budget" in (said.out + said.err)
    training_runs._checked(config, tmp_path / "run", resume=True)
    said = capsys.readouterr()
    assert "differ" not in said.out + said.err
