"""Entries of a comparison: their figures are the comparison's, and what can be no entry is refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from comparison_folder import write_comparison
from starter_board import BACKBONE, BUDGET, IDS, SUITE, entry_of, policy

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.errors import ConfigError, EntryError, LeakageError, UnknownNameError
from promptrl_plugin.evaluation.results import load_results
from promptrl_plugin.evaluation.summary import by_strategy, summarise
from promptrl_plugin.leaderboard.add import ModelNotes, make_entry, open_comparison, write_entry
from promptrl_plugin.leaderboard.entry import schema_problems, schema_text
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.strategies.registry import shipped_policies

TOP = Path(__file__).resolve().parents[2]


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_the_published_schema_is_the_package_s():
    assert (TOP / "leaderboard" / "schema.json").read_text() == schema_text()


def test_every_row_has_an_entry_with_the_figures_of_the_comparison(made: Path, first_board: Path):
    assert {p.stem for p in (first_board / "entries").iterdir()} == set(IDS.values())
    for row, seeds in by_strategy(load_results(made / "compare")).items():
        entry, summary = entry_of(first_board, row), summarise(row, seeds)
        assert schema_problems(entry) == []
        scores = entry["scores"]
        for figure, interval in (("strict", summary.strict), ("soft", summary.soft)):
            for bound in ("mean", "low", "high", "seed_std"):
                assert scores["plus"][figure][bound] == pytest.approx(getattr(interval, bound), abs=1e-6)
        assert scores["base"]["strict"]["mean"] == pytest.approx(summary.base, abs=1e-6)
        assert scores["base"]["soft"]["mean"] >= scores["base"]["strict"]["mean"]
        assert entry["generations"]["per_task"] == pytest.approx(summary.generations.per_task, abs=1e-6)
        tokens = [entry["tokens"][kind]["per_task"] for kind in ("prompt", "completion")]
        assert sum(tokens) == pytest.approx(summary.tokens.per_task, abs=2e-6)
        assert tokens[0] / tokens[1] == pytest.approx(2.5)
        assert entry["seeds"] == list(seeds)
        assert entry["suite"] == {"name": "starter-test", "version": SUITE.version, "tasks": 30}
    assert entry_of(first_board, "direct")["scores"]["plus"]["strict"]["mean"] == pytest.approx(1 / 3, abs=1e-6)


def test_an_entry_says_what_was_asked_of_the_strategy(first_board: Path):
    direct, best_of_k, best_fixed = (entry_of(first_board, row) for row in IDS)
    assert [direct[k] for k in ("budget", "feedback", "protocol", "seeds")] == [1, "none", "untrained", [0]]
    assert [best_of_k[k] for k in ("budget", "feedback", "protocol")] == [BUDGET, "visible", "untrained"]
    assert best_fixed["protocol"] == "held-out"
    assert [(p["seed"], p["train_tasks"]) for p in best_fixed["policies"]] == [(0, 50), (1, 49)]
    assert best_of_k["policies"] == []
    assert best_fixed["commands"] == [
        "promptrl train --learner best-fixed --model coder-0.5b-instruct",
        "promptrl compare --suite starter-test --model coder-0.5b-instruct --backend hf --dtype int8 "
        "--strategies best-fixed --seeds 0,1 --budget 3 --feedback visible --selector first "
        "--policy 'best-fixed=policy/s{seed}' --out compare",
        "promptrl judge --suite starter-test --samples samples/s0.jsonl",
    ]
    assert direct["model"] == {
        "name": "coder-0.5b-instruct", "backend": "hf", "dtype": "int8", "prompted": True, "size": 0.5,
        "link": "https://example.org/coder",
    }  # fmt: skip


def test_a_submission_holds_samples_results_spending_and_policies(first_board: Path, made: Path, tmp_path: Path):
    with zipfile.ZipFile(first_board / "submissions" / f"{IDS['best-fixed']}.zip") as archive:
        archive.extractall(tmp_path)
        names = set(archive.namelist())
    assert names == {"manifest.json"} | {
        name.format(s)
        for s in (0, 1)
        for name in ("samples/s{}.jsonl", "results/s{}.json", "spending/s{}.jsonl", "policy/s{}/manifest.json",
                     "policy/s{}/policy.safetensors")
    }  # fmt: skip
    samples = read_jsonl(tmp_path / "samples" / "s0.jsonl")
    assert samples == read_jsonl(made / "compare" / "mbpp" / "best-fixed-s0.jsonl")
    results = json.loads((tmp_path / "results" / "s0.json").read_text())
    statuses = [rows[0]["base_status"] == rows[0]["plus_status"] == "pass" for rows in results["eval"].values()]
    assert (len(statuses), sum(statuses)) == (30, 20)


def test_the_same_row_gives_the_same_submission(made: Path, judge: IsolatedJudge, tmp_path: Path):
    comparison = open_comparison(made / "compare", ["direct"])
    packed = []
    for name in ("a", "b"):
        entry, files = make_entry(comparison, "direct", judge, ModelNotes())
        files = {n: content for n, content in files.items() if not n.startswith("results/")}  # dated
        packed.append((write_entry(tmp_path / name, entry, files).parents[1] / "submissions").glob("*").__next__())
    assert packed[0].read_bytes() == packed[1].read_bytes()
    assert zipfile.ZipFile(io.BytesIO(packed[0].read_bytes())).testzip() is None


def test_an_entry_with_other_samples_is_replaced_only_on_demand(board: Path, made: Path, judge: IsolatedJudge):
    comparison = open_comparison(made / "compare", ["direct"])
    entry, files = make_entry(comparison, "direct", judge, ModelNotes())
    write_entry(board, entry, files)
    entry["hashes"]["samples"] = "0" * 64
    with pytest.raises(EntryError, match="--replace"):
        write_entry(board, entry, files)
    write_entry(board, entry, files, replace=True)
    assert entry_of(board, "direct")["hashes"]["samples"] == "0" * 64


def test_oracle_results_are_refused(tmp_path: Path):
    with pytest.raises(EntryError, match=r"oracle.*not eligible"):
        open_comparison(write_comparison(tmp_path / "c", feedback="oracle"))


def test_an_old_comparison_that_does_not_tell_its_samples_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"does not tell the samples.*the same `promptrl compare` command"):
        open_comparison(write_comparison(tmp_path / "c", old=True))


def test_a_comparison_under_way_is_refused_and_its_finished_rows_are_not(compare: Path):
    results = json.loads((compare / "results.json").read_text())
    del results["cells"]["best-of-k-s1"]
    (compare / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=r"not finished: best-of-k lacks seed 1.*--row"):
        open_comparison(compare)
    assert list(open_comparison(compare, ["best-fixed"]).rows) == ["best-fixed"]
    with pytest.raises(UnknownNameError, match="best-of-k"):
        open_comparison(compare, ["best-of-n"])


def test_an_entry_names_the_type_that_auto_came_to_and_is_of_one_model(compare: Path):
    def dtype(asked: str, models: dict[str, str]) -> str:
        edit(compare / "config.json", {"backbone": BACKBONE | {"dtype": asked}})
        edit(compare / "results.json", {"models": models})
        return open_comparison(compare, ["direct", "best-of-k"]).matrix.backbone.dtype

    cells = ("direct-s0", "best-of-k-s0", "best-of-k-s1")
    assert dtype("auto", dict.fromkeys(cells, "coder@abc/float32")) == "float32"
    assert dtype("bfloat16", dict.fromkeys(cells, "coder@abc/bfloat16")) == "bfloat16"
    assert dtype("auto", dict.fromkeys(cells[:2], "coder@abc/float32")) == "auto", "one is not known"
    assert dtype("auto", dict.fromkeys(cells, "a server's/model")) == "auto"
    two = dict.fromkeys(cells, "coder@abc/float32") | {"best-of-k-s1": "coder@abc/bfloat16"}
    with pytest.raises(EntryError, match=r"\(coder@abc/bfloat16, coder@abc/float32\); choose those of one with --row"):
        dtype("auto", two)
    unchosen = dict.fromkeys(cells, "coder@abc/int8") | {"best-fixed-s0": "coder@abc/float32"}
    assert dtype("auto", unchosen) == "int8", "a row that is not chosen does not count"


def test_a_comparison_of_a_part_of_the_suite_or_of_another_version_is_refused(compare: Path):
    results = json.loads((compare / "results.json").read_text())
    part = {cell: rows[:20] for cell, rows in results["cells"].items()}
    edit(compare / "results.json", {"cells": part})
    with pytest.raises(ConfigError, match="has 20 of the 30 tasks"):
        open_comparison(compare)
    edit(compare / "results.json", {"cells": results["cells"], "suite_version": "v0"})
    with pytest.raises(ConfigError, match="version v0"):
        open_comparison(compare)


def test_a_policy_that_knows_a_task_or_is_gone_is_refused(compare: Path, judge: IsolatedJudge):
    bundle = compare.parent / "policies" / "s1"
    policy((SUITE.tasks()[3],)).save(bundle)
    comparison = open_comparison(compare, ["best-fixed"])
    with pytest.raises(LeakageError, match=SUITE.tasks()[3].id):
        make_entry(comparison, "best-fixed", judge, ModelNotes())
    bundle.rename(bundle.with_name("elsewhere"))
    with pytest.raises(ConfigError, match=r"best-fixed, seed 1, is not at .*put it back"):
        make_entry(comparison, "best-fixed", judge, ModelNotes())


def test_a_row_without_a_policy_took_the_one_that_ships(compare: Path, judge: IsolatedJudge):
    results = json.loads((compare / "results.json").read_text())
    for kind in ("cells", "samples"):
        results[kind]["promptrl-s0"] = results[kind]["best-fixed-s0"]
    (compare / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=r"none ships for model coder.*--policy promptrl=FOLDER"):
        make_entry(open_comparison(compare, ["promptrl"]), "promptrl", judge, ModelNotes())
    edit(compare / "config.json", {"backbone": BACKBONE | {"model": "SmolLM2-135M-Instruct"}})
    entry, _ = make_entry(open_comparison(compare, ["promptrl"]), "promptrl", judge, ModelNotes())
    (bundle,) = entry["policies"]
    assert (bundle["seed"], bundle["train_suite"]) == (0, PolicyBundle.load(shipped_policies()[0]).train_suite)
    assert entry["model"]["size"] == 0.135


def test_results_that_are_not_those_of_the_samples_are_refused(compare: Path, judge: IsolatedJudge):
    results = json.loads((compare / "results.json").read_text())
    results["cells"]["direct-s0"][0]["strict"] = False
    (compare / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=SUITE.tasks()[0].id):
        make_entry(open_comparison(compare, ["direct"]), "direct", judge, ModelNotes())


@pytest.mark.parametrize(
    ("notes", "field"), [(ModelNotes(link="javascript:x"), "link"), (ModelNotes(size=0.0), "size")]
)
def test_notes_that_do_not_fit_the_schema_are_refused(made: Path, judge: IsolatedJudge, notes: ModelNotes, field: str):
    with pytest.raises(EntryError, match=f"model.{field}"):
        make_entry(open_comparison(made / "compare", ["direct"]), "direct", judge, notes)
