"""What an entry is: its schema, its id, and the figures that are computed of its samples.

The same functions make an entry and verify it, so that what is claimed and what is recomputed cannot drift apart.
Fields and their meaning are in ``schema.json``, which `promptrl leaderboard build` publishes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from promptrl_plugin.checking.results import JudgedSample
from promptrl_plugin.config import LEARNED
from promptrl_plugin.errors import EntryError
from promptrl_plugin.evaluation.statistics import bootstrap_interval
from promptrl_plugin.evaluation.summary import spending
from promptrl_plugin.records import Status

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Problem",
    "Run",
    "Spent",
    "differences",
    "entry_id",
    "entry_paths",
    "figures",
    "protocol_of",
    "read_entry",
    "schema_problems",
    "schema_text",
]

SCHEMA_VERSION = 1
SCHEMA = "schema.json"
_DIGITS = 6
#: How far a recomputed figure may be off: bounds come from a random generator whose stream numpy may change, and of
#: a program that fails, single tests may need about the time that they have, and count in soft means.
_TOLERANCE, _BOUND_TOLERANCE, _SOFT_TOLERANCE = 2e-6, 5e-3, 2e-3


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field of an entry (dotted), or with one file of its submission."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Spent:
    """LLM calls and tokens that one task cost."""

    task_id: str
    generations: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Run:
    """One seed: what was submitted and what it cost, both in the suite's order."""

    judged: tuple[JudgedSample, ...]
    spent: tuple[Spent, ...]


def schema_text() -> str:
    """The published JSON Schema (draft 2020-12)."""
    return resources.files(__package__).joinpath(SCHEMA).read_text(encoding="utf-8")


def entry_paths(board: Path) -> list[Path]:
    """The entries of a leaderboard's folder.

    Raises:
        EntryError: It is no such folder.
    """
    folder = board / "entries"
    if not folder.is_dir():
        raise EntryError(f"{board} holds no leaderboard (no folder entries); run where it is, or name it with --board")
    return sorted(folder.glob("*.json"))


def read_entry(path: Path) -> dict[str, Any]:
    """An entry as it is on file.

    Raises:
        EntryError: It cannot be read, or is no JSON object.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise EntryError(f"cannot read {path}: {e.strerror}; check the path") from None
    except ValueError as e:
        raise EntryError(f"{path} is no JSON ({e}); make it again with `promptrl leaderboard add`") from None
    if not isinstance(entry, dict):
        raise EntryError(f"{path} is no JSON object; make it again with `promptrl leaderboard add`")
    return entry


def schema_problems(entry: Mapping[str, Any]) -> list[Problem]:
    """Where an entry departs from the schema; a result that is not eligible says so in plain words."""
    from jsonschema import Draft202012Validator

    if entry.get("feedback") == "oracle":
        return [Problem("feedback", "oracle: hidden tests guided the search; such results are not eligible")]
    errors = Draft202012Validator(json.loads(schema_text())).iter_errors(dict(entry))
    return sorted(
        (Problem(".".join(map(str, e.absolute_path)) or "the entry", e.message) for e in errors), key=lambda p: p.field
    )


def entry_id(entry: Mapping[str, Any]) -> str:
    """The id that an entry must have: two entries with the same one are of the same configuration."""
    model = entry["model"]
    parts = [
        model["name"],
        model["backend"],
        model["dtype"],
        entry["suite"]["name"],
        entry["strategy"],
        f"b{entry['budget']}",
        entry["feedback"],
        *([entry["selector"]] if entry["selector"] != "first" else []),
    ]
    return "_".join(re.sub(r"[^a-z0-9.+]+", "-", str(part).lower()).strip("-.") for part in parts)


def protocol_of(strategy: str) -> str:
    """How the strategy (with or without a label) came to know what it knows."""
    return "held-out" if strategy.partition(":")[0] in LEARNED else "untrained"


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Scores with intervals, generations and tokens: everything in an entry that follows from its submission.

    Args:
        runs: One a seed, all of the same tasks.
    """

    def interval(score: Callable[[JudgedSample], float]) -> dict[str, float]:
        return asdict(bootstrap_interval([[score(s) for s in run.judged] for run in runs]))

    spent = [row for run in runs for row in run.spent]
    solved = sum(s.solved for run in runs for s in run.judged)
    found = {
        "scores": {
            "base": {
                "strict": interval(lambda s: s.base.status is Status.PASS),
                "soft": interval(lambda s: s.base.fraction),
            },
            "plus": {"strict": interval(lambda s: s.solved), "soft": interval(lambda s: s.fraction)},
        },
        "generations": asdict(spending([row.generations for row in spent], solved)),
        "tokens": {
            "prompt": asdict(spending([row.prompt_tokens for row in spent], solved)),
            "completion": asdict(spending([row.completion_tokens for row in spent], solved)),
        },
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def differences(claimed: Any, recomputed: Any, field: str = "") -> list[Problem]:
    """Where figures of an entry are not those of its submission, field by field."""
    if isinstance(recomputed, Mapping):
        return [
            p for key in recomputed for p in differences(claimed[key], recomputed[key], f"{field}.{key}".strip("."))
        ]
    tolerance = _TOLERANCE
    if field.endswith((".low", ".high")):
        tolerance = _BOUND_TOLERANCE
    elif field.endswith(("soft.mean", "soft.seed_std")):
        tolerance = _SOFT_TOLERANCE
    if claimed == recomputed or (
        claimed is not None and recomputed is not None and abs(claimed - recomputed) <= tolerance
    ):
        return []
    return [Problem(field, f"{claimed} claimed, {recomputed} recomputed")]


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
