"""The `starter` suite: 80 small tasks of our own, shipped in the package, in EvalPlus's MBPP+ schema.

It needs no download, and a model of 135M parameters solves a fair part of it, so it is what the quickstart
and the tests train and evaluate on. `data/starter.jsonl` holds the tasks, one line each, with exactly the
fields of MBPP+ v0.2.0; `data/starter_index.json` says for each id its split and its level (1 very easy,
2 easy, 3 like MBPP). Ids start at 2001, since EvalPlus turns the inputs of some MBPP ids (all below 1000)
into tuples, sets or complex numbers, and looks only at the number (`evalplus.data.mbpp`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from promptrl_plugin.errors import UnknownNameError
from promptrl_plugin.records import Task
from promptrl_plugin.storage.runs import write_atomic
from promptrl_plugin.suites.evalplus import convert
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["Split", "StarterSuite", "write_evalplus_file"]

Split = Literal["train", "test", "all"]


class StarterSuite:
    """Our own tasks: 50 to train on, 30 to test on; every level is in both.

    Args:
        split: ``"train"``, ``"test"`` or ``"all"``.

    Attributes:
        name: ``"starter"``, with the split added unless it is ``"all"``, e.g. ``"starter-train"``.
        version: First 12 hex digits of the SHA-256 of the data file, the same for every split.
        levels: Level of each task of the split by id: 1 very easy, 2 easy, 3 like MBPP.

    Raises:
        UnknownNameError: There is no such split.
    """

    def __init__(self, split: Split = "all") -> None:
        lines = _lines(split)
        self.name = "starter" if split == "all" else f"starter-{split}"
        self.version = hashlib.sha256(_data("starter.jsonl")).hexdigest()[:12]
        self.evalplus_dataset: str | None = "mbpp"
        self.levels: Mapping[str, int] = {task_id: entry["level"] for task_id, entry in _index(split).items()}
        pairs = [convert(json.loads(line), "starter", "mbpp") for line in lines]
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}

    def tasks(self) -> Sequence[Task]:
        """Every task of the split, in the file's order, in which the levels alternate."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden


def write_evalplus_file(split: Split, path: str | Path) -> Path:
    """Write the tasks of a split, verbatim, as a file that ``MBPP_OVERRIDE_PATH`` can point to.

    EvalPlus insists on a sample for each task of its file, so it scores a split through such a file.

    Args:
        split: ``"train"``, ``"test"`` or ``"all"``.
        path: JSON Lines file to write (whole or not at all).

    Returns:
        `path`.

    Raises:
        UnknownNameError: There is no such split.
    """
    write_atomic(path, "".join(line + "\n" for line in _lines(split)))
    return Path(path)


def _lines(split: Split) -> list[str]:
    """JSON texts of the tasks of `split`."""
    index = _index(split)
    lines = _data("starter.jsonl").decode().splitlines()
    return [line for line in lines if json.loads(line)["task_id"] in index]


def _index(split: Split) -> dict[str, dict[str, Any]]:
    """Split and level of the tasks of `split` by id."""
    if split not in get_args(Split):
        raise UnknownNameError("split of the starter suite", split, get_args(Split))
    index: dict[str, dict[str, Any]] = json.loads(_data("starter_index.json"))
    return {task_id: entry for task_id, entry in index.items() if split in ("all", entry["split"])}


def _data(name: str) -> bytes:
    return resources.files("promptrl_plugin.suites").joinpath("data", name).read_bytes()
