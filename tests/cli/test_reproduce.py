"""`promptrl reproduce`: from training to the report, and again."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from promptrl_plugin.agent import parts as parts_module
from promptrl_plugin.agent import setup as episode_setup
from promptrl_plugin.agent import side_by_side
from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.cli import main as cli
from promptrl_plugin.cli import reproduce, training
from promptrl_plugin.config import TrainConfig, load, recipes
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation import compare
from promptrl_plugin.evaluation.results import load_results
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.records import GenerationRequest
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.suites.registry import load_suite

SMALL = """
limit = 12
validate_every = 1
variants = 1
[env]
embedding_dim = 4
[ppo]
total_steps = 32
n_envs = 8
n_steps = 4
batch_size = 16
n_epochs = 1
[judge]
workers = 1
"""


def embed(texts: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(t.encode()).digest()[:16] for t in texts]
    return np.array([[b / 255 for b in d] for d in digests], dtype=np.float32).reshape(len(texts), 16)


def scripted_in(patch: pytest.MonkeyPatch, folder: Path) -> ScriptedBackbone:
    """Work in `folder`, with a backbone that is right on half of the tasks, on the others where it is sampled."""
    suite = load_suite("starter")
    hidden = suite.hidden()
    references = {t.entry_point: hidden[t.id].reference for t in suite.tasks()}
    easy = set(sorted(references)[::2])

    def rule(request: GenerationRequest) -> str:
        name = next(n for n in re.findall(r"(\w+)\(", request.prompt.plain)[::-1] if n in references)
        right = name in easy or not request.decoding.greedy
        return references[name] if right else f"def {name}(*args):\n    return None\n"

    backbone = ScriptedBackbone(rule, name="scripted")
    patch.chdir(folder)
    patch.setenv("PROMPTRL_CACHE", str(folder / "cache"))
    patch.setattr(parts_module, "load_backbone", lambda name, cache=None, **_: CachingBackbone(backbone, cache))
    patch.setattr(side_by_side, "load_backbone", lambda name, **_: backbone)
    patch.setattr(compare, "open_backbone", lambda options, cache: CachingBackbone(backbone, cache))
    for module in (parts_module, episode_setup):
        patch.setattr(module, "load_embedder", lambda name, cache: embed)
    (folder / "small.toml").write_text(SMALL)
    return backbone


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedBackbone:
    return scripted_in(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `COMMAND` has run to its end."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        scripted_in(patch, folder)
        assert run(patch, *COMMAND) == 0
    return folder


@pytest.fixture
def again(whole: Path, scripted: ScriptedBackbone, tmp_path: Path) -> ScriptedBackbone:
    """In a copy of that folder."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return scripted


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["promptrl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


COMMAND = (
    "reproduce", "--backbone", "scripted", "--suite", "starter-test", "--config", "small.toml", "--seeds", "0,1",
    "--budget", "2", "--learners", "best-fixed", "--out", "all",
)  # fmt: skip


@pytest.mark.slow
def test_everything_is_trained_evaluated_and_reported_and_a_second_call_makes_nothing_new(
    monkeypatch: pytest.MonkeyPatch, again: ScriptedBackbone
) -> None:
    for seed in (0, 1):
        ours, fixed = (PolicyBundle.load(Path(f"all/train/{s}-seed{seed}/bundle")) for s in ("promptrl", "best-fixed"))
        assert (ours.train_config().seed, fixed.train_config().seed) == (seed, seed)
        assert ours.train_hashes == fixed.train_hashes
        assert fixed.train_config().learner == "best-fixed"
        spent = [r for r in RunFolder.open(Path(f"all/train/promptrl-seed{seed}")).metrics()]
        assert fixed.train_config().generations == int(spent[-1]["generations/distinct"])
    results = load_results(Path("all/compare"))
    strategies = ("best-of-k", "greedy-best-of-k", "random-hybrid", "epic", "reflexion", "best-fixed", "promptrl")
    assert set(results) == {"direct-s0", *(f"{s}-s{seed}" for s in strategies for seed in (0, 1))}
    assert all(o.generations <= 2 for outcomes in results.values() for o in outcomes)
    assert Path("all/compare/report/report.html").stat().st_size > 10_000
    kept = Path("all/compare/results.json").read_bytes()
    assert run(monkeypatch, *COMMAND) == 0
    assert not again.requests
    assert Path("all/compare/results.json").read_bytes() == kept


def test_a_step_that_was_broken_off_is_gone_on_with(monkeypatch: pytest.MonkeyPatch, again: ScriptedBackbone) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing is trained again")

    kept = json.loads(Path("all/compare/results.json").read_text())
    samples = Path("all/compare") / kept["samples"]["promptrl-s1"]
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:7]))
    Path("all/compare/results.json").unlink()
    monkeypatch.setattr(reproduce, "run_trainings", never)
    assert run(monkeypatch, *COMMAND) == 0
    assert samples.read_text().splitlines(keepends=True)[:7] == lines[:7]
    assert sorted(samples.read_text().splitlines()) == sorted(line.strip() for line in lines)
    assert json.loads(Path("all/compare/results.json").read_text()) == kept
    assert not again.requests, "the completions were in the cache"


def test_the_papers_protocol_is_marked_and_samples_as_it_says(
    monkeypatch: pytest.MonkeyPatch, scripted: ScriptedBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND[:5], "--config", "small.toml", "--protocol", "paper", "--seeds", "0", "--learners", ""]
    assert run(monkeypatch, *command, "--out", "paper") == 0
    out = capsys.readouterr().out
    assert "protocol paper" in " ".join(out.split())
    assert "not eligible for a leaderboard" in " ".join(out.split())
    config = json.loads(Path("paper/compare/config.json").read_text())
    assert (config["protocol"], config["budget"], config["feedback"]) == ("paper", 10, "oracle")
    env = PolicyBundle.load(Path("paper/train/promptrl-seed0/bundle")).train_config().env
    assert (env.budget, env.feedback, env.hot_temperature, env.top_p) == (10, "visible", 0.7, 0.9)
    sampled = {(d.temperature, d.top_p) for r in scripted.requests if (d := r.decoding).temperature > 0.5}
    assert sampled == {(0.7, 0.9), (0.9, 1.0)}, "the latter is EPiC's request for rewrites"
    names = {p.name for p in Path("paper/compare").rglob("*_best-of-k_*.jsonl")}
    assert names
    assert all("_b10_oracle_" in name for name in names)


def test_a_dry_run_says_what_would_be_run(
    monkeypatch: pytest.MonkeyPatch, scripted: ScriptedBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *COMMAND, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith("promptrl ")]
    assert [c.split()[1] for c in commands] == ["train"] * 4 + ["compare", "report"]
    assert "--config small.toml" in commands[0]
    assert "--suite starter-train" in commands[0]
    assert "--learner best-fixed --like all/train/promptrl-seed1" in commands[3]
    assert f"at most {30 * (1 + 7 * 2 * 2):,} generations" in lines[lines.index(commands[4]) - 1]
    assert not Path("all").exists()
    assert not scripted.requests


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("foo/bar", ()),
        ("foo/bar", ("--config", "small.toml", "--protocol", "paper")),
        ("codellama-7b-instruct", ("--backend", "openai", "--base-url", "http://a/v1", "--base-url", "http://b/v1")),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_the_printed_trainings_are_those_that_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backbone: str, options: tuple[str, ...]
) -> None:
    class Stop(Exception):
        pass

    made: list[list[tuple[TrainConfig, Path]]] = []

    def note(runs: list[tuple[TrainConfig, Path]], **_: object) -> None:
        made.append(runs)
        raise Stop

    monkeypatch.setattr(reproduce, "run_trainings", note)
    monkeypatch.setattr(training, "run_trainings", note)
    command = [
        "reproduce",
        "--backbone",
        backbone,
        "--suite",
        "starter-test",
        *options,
        "--seeds",
        "3",
        "--learners",
        "",
    ]
    monkeypatch.setattr("sys.argv", ["promptrl", *command])
    with pytest.raises(Stop):
        cli.main()
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("promptrl train"))
    monkeypatch.setattr("sys.argv", shlex.split(printed))
    with pytest.raises(Stop):
        cli.main()
    by_us, by_hand = made
    assert by_us == by_hand
    assert by_us[0][0].suite == "starter-train"
    assert "--config foo/bar" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "papers"), "protocol 'papers' is not known; use heldout or paper"),
        (("--learners", "linucp"), "did you mean 'linucb'"),
        (("--seeds", "one"), "must be whole numbers"),
        (("--config", "qwen"), "no configuration qwen; give a TOML file or one of codellama-7b-instruct"),
        (("--budget", "0"), "use --budget 1 or more"),
        (("--protocol", "paper", "--budget", "20"), "leave out --budget, or use one up to that"),
        (("--suite", "mbpp-train"), "use --suite mbpp or mbpp500 or humaneval"),
        (("--suite", "starter-train"), "use --suite starter or starter-test"),
        (("--base-url", "http://x/v1"), "add --backend openai, or leave it out"),
    ],
)
def test_what_cannot_work_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(monkeypatch, "reproduce", "--backbone", "m", "--suite", "starter-test", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_every_recipe_can_be_loaded_and_names_operators_that_exist() -> None:
    assert {"codet5p-770m", "codellama-7b-instruct", "deepseek-coder-6.7b-instruct"} <= set(recipes())
    for name in recipes():
        config = load(Path(name))
        table = ActionTable.default(config.operator_kinds, config.operators)
        assert set(config.operators) <= set(table.names)
        assert set(config.warm_start.sequence) <= set(table.names)
        assert config.ppo.total_steps % (config.ppo.n_envs * config.ppo.n_steps) == 0
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load(Path("missing.toml"))
