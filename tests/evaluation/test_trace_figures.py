"""What traces tell of episodes: what each step followed, how prompts changed, which operators were used."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison_folder import CELLS, prompt_of, write_comparison

from promptrl_plugin.evaluation.results import read_results
from promptrl_plugin.evaluation.traces import (
    Episode,
    episode,
    examples,
    load_traces,
    operator_uses,
    word_diff,
)


def episodes(folder: Path) -> list[Episode]:
    traces = load_traces(folder, read_results(folder)["samples"], CELLS)
    found = [episode(seed, o, traces[f"promptrl-s{seed}"][o.task_id]) for seed in (0, 1) for o in CELLS["promptrl-s0"]]
    return [e for e in found if e is not None]


@pytest.mark.parametrize("old", [False, True])
def test_every_cell_finds_its_trace(old: bool, tmp_path: Path):
    folder = write_comparison(tmp_path / "c", old=old)
    traces = load_traces(folder, read_results(folder)["samples"], CELLS)
    assert set(traces) == set(CELLS)
    for cell, outcomes in CELLS.items():
        assert [tuple(traces[cell][o.task_id]["actions"]) for o in outcomes] == [o.actions for o in outcomes]


def test_a_trace_that_is_gone_is_left_out(tmp_path: Path):
    folder = write_comparison(tmp_path / "c")
    next(folder.rglob("*promptrl-s1*.trace.jsonl")).unlink()
    assert set(load_traces(folder, read_results(folder)["samples"], CELLS)) == set(CELLS) - {"promptrl-s1"}


def test_steps_know_what_they_followed_and_what_they_showed(tmp_path: Path):
    e = episodes(write_comparison(tmp_path / "c"))[3]
    assert [(s.action, s.after) for s in e.steps] == [
        ("generate", "first step"),
        ("revert", "wrong_value"),
        ("reflect_repair", "wrong_value"),
        ("sample_hot", "syntax"),
    ]
    assert [s.program for s in e.steps] == [
        "def generate(): ...",
        None,
        "def reflect_repair(): ...",
        "def sample_hot(): ...",
    ]
    assert e.original == f"{prompt_of('T/4').strip()}\n"
    assert e.steps[2].prompt == e.original + "[the failed program, and what went wrong]\n"


def test_operators_are_counted_by_step_and_by_what_they_followed(tmp_path: Path):
    found = episodes(write_comparison(tmp_path / "c"))
    uses = {u.name: u for u in operator_uses([o.actions for e in found for o in [e.outcome]], found)}
    generate, plan, revert = uses["generate"], uses["plan_first"], uses["revert"]
    assert (generate.total, generate.by_step, plan.by_step) == (8, (8, 0, 0, 0), (0, 2, 0, 0))
    assert generate.by_situation is not None
    assert generate.by_situation["first step"] == 8
    assert plan.by_situation is not None
    assert plan.by_situation["wrong_value"] == 2
    assert (generate.made, generate.passed) == (8, 2)  # T/1 passes at once, with both seeds
    assert (plan.made, plan.passed) == (2, 2)
    assert (revert.made, revert.passed) == (0, 0)


def test_old_traces_have_operators_but_no_episodes(tmp_path: Path):
    assert episodes(write_comparison(tmp_path / "c", old=True)) == []
    (use,) = operator_uses([("generate",), ("generate", "generate")], [])
    assert (use.by_step, use.by_situation, use.made, use.passed) == ((2, 1), None, None, None)


def test_examples_are_the_rarely_solved_and_the_long(tmp_path: Path):
    found = dict(examples(episodes(write_comparison(tmp_path / "c")), {"T/2": 1.0}))
    solved, failed = found.values()
    assert [e.outcome.task_id for e in solved] == ["T/3", "T/2"]  # no other strategy solves T/3
    assert [e.outcome.task_id for e in failed] == ["T/4"]  # once, though both seeds fail


def test_a_diff_gives_back_both_texts():
    old, new = "Write a function\nto add one.\n", "[solved task E/1]\nWrite a small function\nto add 1.\n"
    pieces = word_diff(old, new)
    assert "".join(t for kind, t in pieces if kind != "new") == old
    assert "".join(t for kind, t in pieces if kind != "old") == new
    assert ("new", "small ") in pieces
    assert word_diff(old, old) == [("same", old)]
