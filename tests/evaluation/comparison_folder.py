"""A small comparison, written as `promptrl compare` writes it: four tasks, three strategies, two seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptrl_plugin.evaluation.compare import Outcome
from promptrl_plugin.harnesses.samples import SampleFiles, sibling
from promptrl_plugin.records import Candidate, FailureKind, OptimizedPrompt, Sample, Status, Step
from promptrl_plugin.storage.jsonl import read_jsonl

TASKS = ("T/1", "T/2", "T/3", "T/4")
BUDGET = 3
WRONG = FailureKind.WRONG_VALUE


def outcome(task: str, solved_at: int | None, spent: int, *, visible: bool | None = True, **more: Any) -> Outcome:
    """Right from the generation number `solved_at` on; 100 tokens a generation."""
    right = solved_at is not None
    curve = tuple(right and k >= solved_at for k in range(1, BUDGET + 1))
    return Outcome(task, right, right, 1.0 if right else 0.5, visible, spent, 60 * spent, 40 * spent, curve, **more)


def direct() -> list[Outcome]:
    """Solves T/1."""
    return [outcome(t, 1 if t == "T/1" else None, 1, visible=None) for t in TASKS]


def best_of_k() -> list[Outcome]:
    """Solves T/1 and T/2; T/3 passes the visible tests only."""
    return [
        outcome("T/1", 1, 1),
        outcome("T/2", 3, 3),
        outcome("T/3", None, 2),
        outcome("T/4", None, 3, visible=False),
    ]


def promptrl(seed: int) -> list[Outcome]:
    """Solves T/2 and T/3 always, T/1 with seed 1; T/4 stays unsolved."""
    return [
        outcome("T/1", 1, 1, actions=("generate",)) if seed else outcome("T/1", None, 1, actions=("generate",)),
        outcome("T/2", 2, 2, actions=("generate", "plan_first")),
        outcome("T/3", 2, 2, actions=("generate", "fixed_examples")),
        outcome("T/4", None, 3, visible=False, actions=("generate", "revert", "reflect_repair", "sample_hot")),
    ]


CELLS = {
    "direct-s0": direct(),
    "best-of-k-s0": best_of_k(),
    "best-of-k-s1": best_of_k(),
    "promptrl-s0": promptrl(0),
    "promptrl-s1": promptrl(1),
}


def prompt_of(task: str) -> str:
    return f'"""\nWrite a function for <{task}> & list.\nassert f(1) == 2\n"""\n'


def sample_of(o: Outcome) -> Sample:
    """The sample behind an outcome, with the steps of its actions."""
    text, steps, candidates = prompt_of(o.task_id), [], []
    for action in o.actions:
        if action == "plan_first":
            text = text.replace("list.", "list.\nPlan first.")
        position = None
        if action != "revert":
            last = action == o.actions[-1] and o.visible
            position = len(candidates)
            failure = None if last else FailureKind.SYNTAX if action == "reflect_repair" else WRONG
            candidates.append(Candidate(f"def {action}(): ...", position + 1, float(bool(last)), failure))
        examples = ("E/1", "E/2") if action == "fixed_examples" else ()
        steps.append(Step(len(candidates), text, examples, action == "reflect_repair", position))
    status = None if o.visible is None else Status.PASS if o.visible else Status.FAIL
    return Sample(
        o.task_id, "final", "final", o.generations, o.prompt_tokens, o.completion_tokens, status,
        OptimizedPrompt(text, o.actions[1:]), actions=o.actions, candidates=tuple(candidates), steps=tuple(steps),
    )  # fmt: skip


def write_comparison(folder: Path, *, old: bool = False, feedback: str = "visible", policy: str = "") -> Path:
    """Write the folder; `old` as before traces had steps and results named their samples."""
    backbone = {"model": "m-0.5b", "backend": "hf", "dtype": "int8"}
    config = {"suite": "toy", "backbone": backbone, "budget": BUDGET, "feedback": feedback, "policy": policy}
    samples = {cell: f"toy/x_{cell}_abc.jsonl" for cell in CELLS}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"promptrl": "9.9.9", "python": "3.11.7"}))
    rows = {cell: [asdict(o) for o in outcomes] for cell, outcomes in CELLS.items()}
    results = {"suite_version": "v7", "cells": rows} | ({} if old else {"samples": samples})
    (folder / "results.json").write_text(json.dumps(results))
    for cell, outcomes in CELLS.items():
        with SampleFiles(folder / samples[cell], TASKS) as files:
            for o in outcomes:
                files.append(sample_of(o))
        if old:
            _age(sibling(folder / samples[cell], ".trace.jsonl"))
    return folder


def _age(trace: Path) -> None:
    rows = read_jsonl(trace)
    for row in rows:
        del row["steps"]
        for candidate in row["candidates"]:
            del candidate["failure"]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
