"""What the comparison of these tests is made of: real programs of the starter suite, right and wrong, and policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.config import TrainConfig, to_dict
from promptrl_plugin.records import Candidate, Sample, Status, Task
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.suites.registry import load_suite
from promptrl_plugin.suites.splits import fingerprint

SUITE = load_suite("starter-test")
HIDDEN = SUITE.hidden()
BUDGET = 3
#: How many of the first tasks each cell solves; of the others it submits a program with a known mistake.
SOLVED = {"direct-s0": 10, "best-of-k-s0": 15, "best-of-k-s1": 16, "best-fixed-s0": 20, "best-fixed-s1": 18}
WRONG = {r["task_id"]: r["solution"] for r in read_jsonl(Path(__file__).parents[1] / "suites" / "starter_wrong.jsonl")}
BACKBONE = {"model": "coder-0.5b-instruct", "backend": "hf", "dtype": "int8", "base_url": None}
IDS = {
    "direct": "coder-0.5b-instruct_hf_int8_starter-test_direct_b1_none",
    "best-of-k": "coder-0.5b-instruct_hf_int8_starter-test_best-of-k_b3_visible",
    "best-fixed": "coder-0.5b-instruct_hf_int8_starter-test_best-fixed_b3_visible",
}


def sample(task: Task, right: bool, *, direct: bool) -> Sample:
    program = HIDDEN[task.id].reference if right else WRONG[task.id]
    spent = 1 if direct or right else BUDGET
    status = None if direct else Status.PASS
    candidates = (Candidate(program, spent, None if direct else 1.0),)
    return Sample(task.id, program, program, spent, 50 * spent, 20 * spent, status, candidates=candidates)


def policy(tasks: tuple[Task, ...], learner: str = "best-fixed") -> PolicyBundle:
    """A bundle that was trained on these tasks."""
    return PolicyBundle(
        backbone="coder-0.5b-instruct",
        backbone_fingerprint="coder-0.5b-instruct@abc/int8",
        embedder="all-minilm-l6-v2",
        observation=("a.x",),
        observation_version=1,
        actions=("generate",),
        action_digest="digest",
        network={"obs_dim": 1, "n_actions": 1, "sequence": ["generate"]},
        weights={},
        projection_mean=np.zeros(2, np.float32),
        projection_components=np.eye(1, 2, dtype=np.float32),
        config=to_dict(TrainConfig(learner=learner)),
        train_suite="starter-train",
        train_suite_version=SUITE.version,
        train_hashes=tuple(t.content_hash for t in tasks),
        train_fingerprints=tuple(fingerprint(t) for t in tasks),
        command="promptrl train --learner best-fixed --model coder-0.5b-instruct",
    )


def entry_of(board: Path, row: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((board / "entries" / f"{IDS[row]}.json").read_text())
    return entry
