"""Reports of a small comparison: every file says the same, and the page needs nothing but itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from comparison_folder import TASKS, write_comparison
from html_page import Page

from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.evaluation.export import write_report
from promptrl_plugin.evaluation.report import build_report, settings_line


def page_of(folder: Path, **kwargs: object) -> Page:
    return Page(write_report(build_report(folder, **kwargs), folder / "report").read_text())  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "c")


def test_the_page_needs_no_network_and_no_other_file(folder: Path):
    page = page_of(folder)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith("#"), f"{tag} {name}={value}"
    text = (folder / "report" / "report.html").read_text()
    assert "@import" not in text
    assert "url(http" not in text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_results_are_in_every_format(folder: Path):
    page = page_of(folder)
    out = folder / "report"
    row = next(r for r in page.rows["results"] if r[0] == "promptrl" and len(r) == 8)
    assert (row[1], row[2], row[6]) == ("2", "62.5±17.7", "62.5")
    assert any(r[:2] == ["direct", "+37.5"] and r[3] == "2–1" for r in page.rows["results"])
    assert ["promptrl", "12.5", "62.5", "62.5"] in page.rows["budget"]
    assert ["promptrl", "2.00", "3.20", "200", "320"] in page.rows["spending"]
    assert ["promptrl", "75.0", "12.5", "16.7"] in page.rows["spending"]
    assert "promptrl solves 62.5 % of 4 tasks" in page.sections["header"]

    assert "| promptrl | 2 | 62.5±17.7 |" in (out / "report.md").read_text()
    data = json.loads((out / "report.json").read_text())
    assert data["eligible"]
    assert [s["strict"]["mean"] for s in data["strategies"]] == [0.25, 0.5, 0.625]
    rows = {name: list(csv.DictReader((out / f"{name}.csv").open())) for name in ("strategies", "contests", "tasks")}
    assert [r["generations_per_solved"] for r in rows["strategies"]] == ["4.0", "4.5", "3.2"]
    assert [(r["strict_name"], r["won"], r["lost"]) for r in rows["contests"]] == [
        ("direct", "T/2 T/3", "T/1"),
        ("best-of-k", "T/3", "T/1"),
    ]
    assert len(rows["tasks"]) == 5 * len(TASKS)
    assert (
        rows["tasks"][-1] | {"suite": "toy", "feedback": "visible", "strict": "0", "visible": "0"} == rows["tasks"][-1]
    )
    assert rows["tasks"][0]["visible"] == ""


def test_the_page_shows_what_the_agent_does(folder: Path):
    page = page_of(folder)
    agent, episodes = page.rows["agent"], page.sections["episodes"]
    assert ["operator", "step 1n = 8", "step 2n = 6", "step 3n = 2", "step 4n = 2"] in agent
    assert ["operator", "first stepn = 8", "syntaxn = 2", "wrong valuen = 8"] in agent
    assert ["generate", "100", "", "", ""] in agent
    assert ["plan_first", "2", "2", "100.0"] in agent
    assert "Write a function for <T/3> & list." in episodes
    assert "[solved task E/1]\n[solved task E/2]\n" in "".join(page.marks["ins"])
    assert "passes every hidden test" in episodes
    assert "fails the visible tests: wrong value" in episodes


def test_tasks_are_marked_as_won_and_lost(folder: Path):
    page = page_of(folder)
    assert page.rows["tasks"][1:] == [
        ["T/1", "Write a function for <T/1> & list.", "✓", "✓", "1/2"],
        ["T/2", "Write a function for <T/2> & list.", "✗", "✓", "✓"],
        ["T/3", "Write a function for <T/3> & list.", "✗", "✗", "✓"],
        ["T/4", "Write a function for <T/4> & list.", "✗", "✗", "✗"],
    ]
    assert [v for _, name, v in page.attributes if name == "data-won"] == ["", "0", "0 1", ""]
    assert [v for _, name, v in page.attributes if name == "data-lost"] == ["0 1", "", "", ""]


def test_another_reference_may_be_named(folder: Path):
    assert "best-of-k solves 50.0 %" in page_of(folder, against="best-of-k").sections["header"]
    with pytest.raises(UnknownNameError, match="best-of-k"):
        build_report(folder, against="best-of-n")


def test_old_folders_say_what_is_missing(tmp_path: Path):
    page = page_of(write_comparison(tmp_path / "c", old=True))
    assert "By failure class: these traces do not tell" in page.sections["agent"]
    assert ["generate", "100", "", "", ""] in page.rows["agent"]
    assert "hold no prompts by step" in page.sections["episodes"]
    assert "No training run was found" in page.sections["learning"]


def test_oracle_results_carry_their_mark_everywhere(tmp_path: Path):
    folder = write_comparison(tmp_path / "c", feedback="oracle")
    page = page_of(folder)
    out = folder / "report"
    assert "Not eligible for a leaderboard" in page.sections["header"]
    assert "fails all tests: wrong value" in page.sections["episodes"]
    assert "oracle" in (out / "report.md").read_text()
    assert not json.loads((out / "report.json").read_text())["eligible"]
    for name in ("strategies", "contests", "curves", "tasks"):
        assert {r["feedback"] for r in csv.DictReader((out / f"{name}.csv").open())} == {"oracle"}


def training_run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    rows = [
        {"steps": 0, "random/solved": 0.3},
        {"steps": 10, "rollout/solved": 0.1, "train/entropy": 2.5},
        {"steps": 20, "rollout/solved": 0.2, "train/entropy": 2.0, "validation/solved": 0.4},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_learning_curves_are_found_beside_the_bundles(tmp_path: Path):
    for seed in (0, 1):
        training_run(tmp_path / "runs" / f"seed{seed}")
    report = build_report(write_comparison(tmp_path / "c", policy="runs/seed{seed}/bundle"))
    assert [r.name for r in report.runs] == ["seed0", "seed1"]
    solved, *_, entropy = report.runs[0].panels
    assert solved.lines == {"training episodes": ((10, 0.1), (20, 0.2)), "validation tasks": ((20, 0.4),)}
    assert (solved.random, entropy.random) == (0.3, None)
    page = page_of(tmp_path / "c")
    assert "seed1" in page.sections["learning"]
    assert len([t for t, name, _ in page.attributes if t == "svg" and name == "role"]) == 2 + 4


def test_learning_curves_of_every_row_with_a_policy(tmp_path: Path):
    for name in ("seed0", "linucb-0", "without-0", "unused-0"):
        training_run(tmp_path / "runs" / name)
    folder = write_comparison(tmp_path / "c", policy="runs/seed{seed}/bundle")
    results = json.loads((folder / "results.json").read_text())
    rows = {"promptrl:no-lexical": "without", "linucb": "linucb"}
    for row in rows:
        results["cells"][f"{row}-s0"] = results["cells"]["promptrl-s0"]
    results["policies"] = {row: f"runs/{name}-{{seed}}/bundle" for row, name in rows.items()}
    (folder / "results.json").write_text(json.dumps(results))
    report = build_report(folder)
    assert [r.name for r in report.runs] == ["seed0", "without-0", "linucb-0"]
    assert report.reference == "promptrl"
    assert [s.strategy for s in report.summaries] == ["direct", "best-of-k", "promptrl", *rows]
    assert "promptrl:no-lexical" in page_of(folder).sections["results"]


def test_training_runs_may_be_named(tmp_path: Path, folder: Path):
    run = training_run(tmp_path / "elsewhere")
    assert [r.name for r in build_report(folder, [run]).runs] == ["elsewhere"]
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="has no metrics"):
        build_report(folder, [run])
    with pytest.raises(ConfigError, match="holds no run"):
        build_report(folder, [tmp_path])


def test_a_folder_without_results_says_how_to_make_them(tmp_path: Path, folder: Path):
    with pytest.raises(ConfigError, match="check the path"):
        build_report(tmp_path)
    (folder / "results.json").unlink()
    with pytest.raises(ConfigError, match="the same `promptrl compare` command again"):
        build_report(folder)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("strict", "yes"),
        ("visible", 1),
        ("generations", None),
        ("soft", "0.5"),
        ("task_id", 3),
        ("curve", [True]),
        ("curve", ["yes"] * 3),
        ("actions", [1]),
        ("actions", None),
    ],
)
def test_damaged_outcomes_are_an_error_with_the_remedy(folder: Path, change: str, value: object):
    results = json.loads((folder / "results.json").read_text())
    results["cells"]["promptrl-s0"][1][change] = value
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=r"results\.json is damaged; delete it and run"):
        build_report(folder)


def test_what_auto_came_to_is_told_and_cells_of_two_types_are_no_secret(folder: Path):
    def line(**models: str) -> str:
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps(results | {"models": models}))
        return settings_line(build_report(folder))

    one, other = {"direct-s0": "m@1/float32"}, {"best-of-k-s0": "m@1/bfloat16", "of no row-s0": "n"}
    assert "model m-0.5b (hf, int8), budget" in line()
    assert "model m-0.5b (hf, int8: m@1/float32), budget" in line(**one)
    assert "cells of DIFFERENT models, not comparable: m@1/bfloat16, m@1/float32)" in line(**one, **other)


@pytest.mark.parametrize(
    "part",
    [{"cells": []}, {"cells": {"promptrl": []}}, {"samples": []}, {"policies": {"a": 1}}, {"models": {"a": 1}}],
)
def test_damaged_results_are_an_error_with_the_remedy(folder: Path, part: dict[str, object]):
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | part))
    with pytest.raises(ConfigError, match=r"results\.json is damaged; delete it and run"):
        build_report(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"suite": "s", "backbone": "m", "budget": 1, "feedback": "none"}'])
def test_settings_of_no_comparison_are_one_line(
    folder: Path, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from promptrl_plugin.cli import main as cli

    (folder / "config.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["promptrl", "report", str(folder)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("promptrl: ")
    assert error.count("\n") == 1
    assert "config.json" in error
    assert not (folder / "report").exists()


def test_the_command_prints_the_tables_and_names_the_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from promptrl_plugin.cli import main as cli

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["promptrl", "report", str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().out
    assert not stop.value.code
    assert "62.5±17.7" in printed
    assert str(tmp_path / "out" / "report.html") in printed
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "strategies.csv",
        "contests.csv",
        "curves.csv",
        "tasks.csv",
    }
    assert not (folder / "report").exists()
