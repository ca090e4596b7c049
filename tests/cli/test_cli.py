"""The command line: what it prints, its exit codes, and one line with the remedy for every bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from promptrl_plugin.agent import parts
from promptrl_plugin.backbones.models import list_models
from promptrl_plugin.cli import console
from promptrl_plugin.cli import main as cli
from promptrl_plugin.config import TrainConfig
from promptrl_plugin.records import AssertGroup, Completion, Task
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.storage.runs import RunFolder
from promptrl_plugin.suites import registry
from promptrl_plugin.suites.registry import load_suite


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call ``promptrl`` in this process; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["promptrl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in (
        "quickstart",
        "models",
        "train",
        "solve",
        "judge",
        "compare",
        "report",
        "suites",
        "cache",
        "doctor",
    ):
        assert command in text


def test_a_cache_is_exported_and_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    with Cache() as cache:
        cache.put_completion("ab" * 32, Completion("pass", 1, 1, "stop"))
    assert run(monkeypatch, "cache", "export", "a.jsonl.xz") == 0
    assert "1 completions, 0 verdicts" in capsys.readouterr().out
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "other"))
    assert run(monkeypatch, "cache", "import", "a.jsonl.xz") == 0
    assert "1 completions, 0 verdicts were new" in capsys.readouterr().out
    assert run(monkeypatch, "cache", "info") == 0
    assert "completions" in capsys.readouterr().out


BAD = [
    (("cache", "import", "no.xz"), "check the path"),
    (("train", "--budget", "0"), "--budget 1 or more"),
    (("train", "--suite", "mbpp-trian"), "mbpp-train"),
    (("train", "--suite", "starter-test"), "--suite starter-train"),
    (("train", "--suite", "starter"), "--suite starter-train"),
    (("train", "--suite", "mbpp"), "--suite mbpp-train"),
    (("train", "--suite", "humaneval"), "--suite mbpp-train"),
    (("train", "--suite", "apps-interview"), "--suite apps-train"),
    (("solve", "--strategy", "direct", "--suite", "apps-introductry"), "apps-introductory"),
    (("train", "--feedback", "oracle"), "--feedback visible"),
    (("train", "--suite", "starter-train", "--model", "smollm2-135m-instrct"), "smollm2-135m-instruct"),
    (("train", "--config", "no.toml"), "no.toml (No such file or directory); check the path"),
    (("train", "--suite", "starter-train", "--feedback", "foo"), "must be visible or none, not 'foo'"),
    (("train", "--suite", "starter-train", "--seed", "-1"), "seed must be 0 or more"),
    (("solve", "--strategy", "best-of-k", "--suite", "starter-test", "--seed", "-1"), "--seed must be 0 or more"),
    (
        ("solve", "--suite", "starter-test", "--model", "none", "--split", "crossfit:5", "--config", "x"),
        "one of codellama",
    ),
    (("compare", "--suite", "starter-test", "--seeds", "-1", "--out", "runs"), "whole numbers of 0 or more"),
    (("solve", "--strategy", "best-of-n", "--suite", "starter-test"), "best-of-k"),
    (("solve", "--strategy", "direct", "--budget", "0"), "--budget 1 or more"),
    (("solve", "--strategy", "direct", "--feedback", "some"), "none, visible or oracle"),
    (("solve", "--strategy", "direct", "--suite", "humanevla"), "humaneval"),
    (("solve", "--strategy", "direct", "--suite", "starter-test", "--backend", "opanai"), "openai"),
    (("train", "--suite", "starter-train", "--base-url", "http://x/v1"), "add --backend openai"),
    (("solve", "--strategy", "direct", "--suite", "starter-test", "--base-url", "http://x/v1"), "add --backend openai"),
    (("solve", "--strategy", "linucb", "--suite", "starter-test"), "promptrl train --learner linucb --model smollm2"),
    (("solve", "--strategy", "epic", "--protocol", "paper", "--budget", "20"), "leave out --budget"),
    (("compare", "--out", "runs", "--strategies", "direct,epic", "--protocol", "paper", "--budget", "20"), "leave out"),
    (("compare", "--out", "runs", "--strategies", "direct", "--policy", "bar"), "does not name; add it there"),
    (("judge", "--samples", "no.jsonl", "--suite", "starter"), "no.jsonl"),
    (("judge", "--samples", "no.jsonl", "--suite", "starter", "--workers", "-1"), "--workers"),
    (("models", "pull", "smollm"), "smollm2-135m-instruct"),
    (("report", "no-such-folder"), "check the path"),
]


@pytest.mark.parametrize(("arguments", "remedy"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_with_the_remedy(
    arguments: tuple[str, ...], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("promptrl:")]
    assert len(lines) == 1
    assert remedy in lines[0]
    assert "Traceback" not in error
    assert not Path("runs").exists(), "nothing half-written"


def test_help_keeps_words_in_angle_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for command in ("judge", "train", "reproduce"):
        assert run(monkeypatch, command, "--help") == 0
    text = "".join(capsys.readouterr().out.replace("│", "").split())
    assert "default:<samples>_eval_results.json" in text
    assert text.count("default:runs/<") == 2


def write_samples(path: Path, solutions: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"task_id": t, "solution": s}) + "\n" for t, s in solutions.items()))
    return path


def starter_references() -> dict[str, str]:
    hidden = load_suite("starter-test").hidden()
    return {task_id: tests.reference for task_id, tests in hidden.items()}


def test_judge_scores_samples_and_writes_evalplus_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    solutions = starter_references()
    wrong = min(solutions)
    solutions[wrong] = "def nothing():\n    return 0\n"
    samples = write_samples(tmp_path / "samples.jsonl", solutions)
    out = tmp_path / "results.json"
    code = run(monkeypatch, "judge", "--suite", "starter-test", "--samples", str(samples), "--out", str(out))
    assert code == 0
    results = json.loads(out.read_text())
    assert set(results) == {"date", "hash", "eval"}
    for task_id, rows in results["eval"].items():
        expected = "fail" if task_id == wrong else "pass"
        assert [(r["base_status"], r["plus_status"]) for r in rows] == [(expected, expected)]
    assert "96.7" in capsys.readouterr().out  # 29 of 30


def test_judge_refuses_torn_foreign_and_missing_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    solutions = starter_references()
    torn = write_samples(tmp_path / "torn.jsonl", solutions)
    torn.write_bytes(torn.read_bytes()[:-20])
    foreign = write_samples(tmp_path / "foreign.jsonl", {**solutions, "Mbpp/2": "x = 1"})
    missing = write_samples(tmp_path / "missing.jsonl", dict(list(solutions.items())[:3]))
    empty = write_samples(tmp_path / "empty.jsonl", {})
    for path, words in ((torn, "torn"), (foreign, "Mbpp/2"), (missing, "--partial"), (empty, "holds no sample")):
        assert run(monkeypatch, "judge", "--suite", "starter-test", "--samples", str(path)) == 2
        assert words in capsys.readouterr().err, path.name
        assert not path.with_name(path.stem + "_eval_results.json").exists()
    assert run(monkeypatch, "judge", "--suite", "starter-test", "--samples", str(missing), "--partial") == 0


@pytest.mark.parametrize("feedback", ["visible", "none"])
def test_a_train_suite_that_shows_no_test_is_refused_before_a_model_is_loaded(
    feedback: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Bare:
        name, version, evalplus_dataset = "bare", "1", None

        def tasks(self) -> list[Task]:
            return [Task(f"B/{i}", "bare", "mbpp", "Do it.", "f", AssertGroup(())) for i in range(9)]

    monkeypatch.setattr(registry, "SUITES", {"bare": Bare})
    monkeypatch.setattr(parts, "build", None)
    assert run(monkeypatch, "train", "--suite", "bare", "--feedback", feedback) == 2
    error = capsys.readouterr().err
    assert "no task of suite bare shows a test" in error
    assert "use another --suite" in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_models_list_cuts_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "40")
    assert run(monkeypatch, "models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    for row in list_models():
        (line,) = (x for x in lines if f" {row.alias} " in x)
        assert all(f" {cell} " in line for cell in (row.hub_id, row.size, row.source))


def test_a_narrow_terminal_folds_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(console, "console", Console(width=40, force_terminal=True, no_color=True))
    table = Table("alias", "hub id")
    table.add_row("a" * 30, "b" * 60)
    console.print_whole(table)
    text = capsys.readouterr().out
    assert (text.count("a"), text.count("b")) == (30 + len("a") * 2, 60 + len("b"))  # with the header's own letters
    assert "…" not in text


def test_suites_tells_what_is_at_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for variable in ("MBPP_OVERRIDE_PATH", "HUMANEVAL_OVERRIDE_PATH", "PROMPTRL_MBPP_PATH"):
        monkeypatch.setenv(variable, "/no/such/file")
    assert run(monkeypatch, "suites") == 0
    text = capsys.readouterr().out
    assert "starter-train" in text
    assert "50" in text
    assert "MBPP_OVERRIDE_PATH" in text


def test_report_of_a_training_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    RunFolder.create(tmp_path / "run", TrainConfig())
    assert run(monkeypatch, "report", "run") == 2
    assert "run is the run folder of a training, not of a comparison; give" in capsys.readouterr().err


def test_a_board_without_entries_verifies_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "board" / "entries").mkdir(parents=True)
    assert run(monkeypatch, "leaderboard", "validate", "--board", "board") == 2
    told = capsys.readouterr()
    assert "there is no entry in board; make one with `promptrl leaderboard add`" in told.err
    assert "verified" not in told.out
