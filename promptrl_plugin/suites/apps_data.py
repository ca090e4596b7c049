"""Reads APPS (Hendrycks et al. 2021, arXiv 2105.09938): 5,000 train and 5,000 test tasks of three difficulties.

From ``$PROMPTRL_APPS_PATH``, else from the hub or its cache. The variable may name

* a folder in APPS's own layout: one folder a task with ``question.txt``, ``input_output.json``, ``metadata.json``, and
  where there are any ``solutions.json`` and ``starter_code.py``, either directly or in ``train/`` and ``test/``;
* a JSON Lines file of the hub's rows, or a folder with ``train.jsonl`` and ``test.jsonl``.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from promptrl_plugin.errors import DataError
from promptrl_plugin.groups import read_json
from promptrl_plugin.suites.hub import offline_unless_reachable

__all__ = ["DIFFICULTIES", "HUB_ID", "OVERRIDE", "AppsData", "AppsRow", "at_hand", "load_apps"]

#: Environment variable that points at APPS.
OVERRIDE = "PROMPTRL_APPS_PATH"
HUB_ID = "codeparrot/apps"
DIFFICULTIES = ("introductory", "interview", "competition")
Split = Literal["train", "test"]
_REMEDY = f"point {OVERRIDE} at APPS: its folder of train/ and test/, or JSON Lines of the hub's {HUB_ID}"


@dataclass(frozen=True, slots=True)
class AppsRow:
    """One task as APPS has it.

    Attributes:
        number: The task's number within its split.
        question: The statement.
        starter_code: What a solution must begin with; may be empty.
        difficulty: One of `DIFFICULTIES`.
        function: Function to be called; ``""`` for a script.
        inputs / outputs: As in ``input_output.json``; empty where the task has no tests.
        solutions: Right programs; may be empty.
    """

    number: int
    question: str
    starter_code: str
    difficulty: str
    function: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    solutions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppsData:
    """What was asked for.

    Attributes:
        rows: By number.
        split: ``"train"`` or ``"test"``; ``""`` where the data has no splits.
        source: Where it came from, for messages.
    """

    rows: tuple[AppsRow, ...]
    split: str
    source: str


def load_apps(split: Split) -> AppsData:
    """The tasks of a split. Where the data has only another, or none, the test split is all that there is.

    Raises:
        DataError: The data is missing, unreachable or malformed, or has no train split and that is asked for.
    """
    override = os.environ.get(OVERRIDE)
    if override is None or not override.strip():
        return _from_hub(split)
    path = Path(override)
    for name in ("test", "train") if split == "test" else ("train",):
        if (found := _find(path, name)) is not None:
            return AppsData(_rows(found), name, str(found))
    if split == "train":
        raise DataError(f"{path} has no train/ and no train.jsonl; {_REMEDY}")
    return AppsData(_rows(path), "", str(path))


def at_hand() -> bool:
    """Whether the data is on this machine, so that reading it downloads nothing."""
    if os.environ.get(OVERRIDE):
        return True
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(HUB_ID, "test.jsonl", repo_type="dataset"), str)


def _find(path: Path, split: str) -> Path | None:
    for place in (path / split, path / f"{split}.jsonl"):
        if place.exists():
            return place
    return None


@functools.lru_cache(maxsize=2)
def _cached_rows(path: Path, changed: float) -> tuple[AppsRow, ...]:
    return tuple(sorted(_read(path), key=lambda row: row.number))


def _rows(path: Path) -> tuple[AppsRow, ...]:
    """Every task of a folder of tasks or of a JSON Lines file, by number."""
    try:
        rows = _cached_rows(path, path.stat().st_mtime)
    except OSError as e:
        raise DataError(f"cannot read {e.filename or path} ({e.strerror}); {_REMEDY}") from None
    if not rows:
        raise DataError(f"{path} holds no APPS task; {_REMEDY}")
    for before, row in itertools.pairwise(rows):
        if before.number == row.number:
            raise DataError(f"{path} holds task {row.number} twice; {_REMEDY}")
    return rows


def _read(path: Path) -> Iterator[AppsRow]:
    if not path.is_dir():
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield _row(_parsed(line, f"{path}, line {number + 1}"), f"{path}, line {number + 1}", number)
        return
    for folder in path.iterdir():
        if (folder / "question.txt").is_file():
            yield _row(_folder(folder), str(folder), int(folder.name) if folder.name.isdecimal() else None)


def _folder(folder: Path) -> dict[str, Any]:
    """A folder in APPS's own layout, as a row of the hub."""

    def text(name: str) -> str:
        path = folder / name
        try:
            return path.read_text(encoding="utf-8") if path.exists() else ""
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8; {_REMEDY}") from None

    metadata = _parsed(text("metadata.json") or "{}", str(folder / "metadata.json"))
    return {
        "question": text("question.txt"),
        "starter_code": text("starter_code.py"),
        "input_output": text("input_output.json"),
        "solutions": text("solutions.json"),
        "difficulty": metadata.get("difficulty"),
    }


def _row(row: dict[str, Any], where: str, number: int | None) -> AppsRow:
    """Check one row of the hub's schema (`input_output` and `solutions` are JSON in a string)."""
    named = row.get("problem_id", row.get("id", number))
    number = int(named) if isinstance(named, int) or (isinstance(named, str) and named.isdecimal()) else None
    question, difficulty = row.get("question"), row.get("difficulty")
    if number is None:
        raise DataError(f"{where} has no number for a name; {_REMEDY}")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where} lacks a usable 'question'; {_REMEDY}")
    if difficulty not in DIFFICULTIES:
        raise DataError(f"{where} has the difficulty {difficulty!r}, none of {', '.join(DIFFICULTIES)}; {_REMEDY}")
    tests = _parsed(row.get("input_output") or "{}", f"{where}, input_output")
    inputs, outputs = tests.get("inputs", []), tests.get("outputs", [])
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        inputs, outputs = [], []  # nothing that could be run; the suite reports how many tasks it leaves out
    solutions = _json(row.get("solutions") or "[]", f"{where}, solutions")
    return AppsRow(
        number,
        question,
        row.get("starter_code") or "",
        difficulty,
        tests.get("fn_name") or "",
        tuple(inputs),
        tuple(outputs),
        tuple(s for s in solutions if isinstance(s, str)) if isinstance(solutions, list) else (),
    )


def _json(value: Any, where: str) -> Any:
    try:
        return read_json(value) if isinstance(value, str) else value
    except ValueError as e:
        raise DataError(f"{where} is not JSON ({e}); {_REMEDY}") from None


def _parsed(value: Any, where: str) -> dict[str, Any]:
    data = _json(value, where)
    if not isinstance(data, dict):
        raise DataError(f"{where} is not a JSON object; {_REMEDY}")
    return data


@functools.lru_cache(maxsize=2)
def _from_hub(split: Split) -> AppsData:
    """A split from the hub, or from its cache where the hub cannot be reached."""
    import datasets
    import huggingface_hub

    try:
        with offline_unless_reachable():
            try:
                rows = [dict(row) for row in datasets.load_dataset(HUB_ID, split=split)]
            except RuntimeError:  # `datasets` from 4 on runs no loading scripts, which that repository has
                path = huggingface_hub.hf_hub_download(HUB_ID, f"{split}.jsonl", repo_type="dataset")
                return AppsData(_rows(Path(path)), split, HUB_ID)
    except DataError:
        raise
    except Exception as e:  # the hub's client raises errors of half a dozen libraries
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
        raise DataError(f"cannot load {HUB_ID} ({reason}); connect once, or {_REMEDY}") from None
    found = (_row(row, f"{HUB_ID}, row {n}", n) for n, row in enumerate(rows))
    return AppsData(tuple(sorted(found, key=lambda row: row.number)), split, HUB_ID)
