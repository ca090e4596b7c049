"""The original MBPP, in MBPP+'s form, and its test split (`mbpp500`).

Austin et al. 2021, arXiv 2108.07732; 974 tasks: ids 1–10 few-shot prompt, 11–510 test, 511–600 validation,
601–974 train. EvalPlus's MBPP+ takes tasks from all of them, so that MBPP's own train split is no train
split for MBPP+.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import DataError
from promptrl_plugin.records import AssertGroup, Task
from promptrl_plugin.suites.evalplus import EvalPlusSuite, tasks_hash
from promptrl_plugin.suites.hidden import HiddenTests
from promptrl_plugin.suites.hub import offline_unless_reachable
from promptrl_plugin.suites.visible import called_names, imports_for, parse

__all__ = ["BrokenTask", "Mbpp500Suite", "convert_mbpp", "load_mbpp"]

#: Environment variable that points at a JSON Lines file of the original MBPP.
OVERRIDE = "PROMPTRL_MBPP_PATH"
HUB_ID = "google-research-datasets/mbpp"
_TEST_IDS = range(11, 511)
_FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}


class BrokenTask(ValueError):
    """An original MBPP task that cannot be put into MBPP+'s form; the message is the reason."""


def load_mbpp() -> list[dict[str, Any]]:
    """Read the original MBPP, ordered by id: ``$PROMPTRL_MBPP_PATH``, else the ``datasets`` hub or cache.

    Raises:
        DataError: There is no file and no network, or the data is malformed.
    """
    path = os.environ.get(OVERRIDE)
    rows = _read_json_lines(Path(path)) if path else _read_hub()
    source = path or HUB_ID
    for row in rows:
        wrong = [k for k, kind in _FIELDS.items() if not isinstance(row.get(k), kind)]
        if wrong or not row["test_list"]:
            raise DataError(
                f"{source}: task {row.get('task_id', '?')} lacks a usable {(wrong or ['test_list'])[0]!r}; "
                f"point {OVERRIDE} at MBPP's mbpp.jsonl"
            )
    ids = Counter(row["task_id"] for row in rows)
    if not rows or ids.most_common(1)[0][1] > 1:
        what = f"task {ids.most_common(1)[0][0]} twice" if rows else "no tasks"
        raise DataError(f"{source} holds {what}; point {OVERRIDE} at MBPP's mbpp.jsonl")
    return sorted(rows, key=lambda row: row["task_id"])


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as e:
        raise DataError(f"cannot read {path} ({e}); point {OVERRIDE} at MBPP's mbpp.jsonl") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not JSON Lines of objects; point {OVERRIDE} at MBPP's mbpp.jsonl")
    return rows


def _read_hub() -> list[dict[str, Any]]:
    """All splits of MBPP from the hub, or from the cache of `datasets` where the hub cannot be reached."""
    import datasets

    try:
        with offline_unless_reachable():
            splits = datasets.load_dataset(HUB_ID, "full")
    except Exception as e:  # the hub's client raises errors of half a dozen libraries
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
        raise DataError(
            f"cannot load {HUB_ID} ({reason}); connect once so that `datasets` caches it, or point {OVERRIDE} "
            "at mbpp.jsonl from https://github.com/google-research/google-research/tree/master/mbpp"
        ) from None
    return [dict(row) for split in splits.values() for row in split]


def convert_mbpp(row: Mapping[str, Any], suite: str) -> tuple[Task, HiddenTests]:
    """Turn an original MBPP task into MBPP+'s form: text and first assert in a docstring.

    The first assert is visible; all of them are the hidden tests. `test_setup_code` is the set-up of both,
    with the classes of the reference that it or the asserts build their arguments from.

    Raises:
        BrokenTask: Reference or asserts do not parse, or the asserts do not call one of its functions.
    """
    code = _normalise(row["code"])
    asserts = tuple(_normalise(a).strip() for a in row["test_list"])
    entry_point = _entry_point(code, asserts)
    setup = _setup(code, _normalise(row["test_setup_code"]), asserts)
    task = Task(
        id=f"Mbpp/{row['task_id']}",
        suite=suite,
        dialect="mbpp",
        prompt=f'"""\n{row["text"]}\n{asserts[0]}\n"""\n',
        entry_point=entry_point,
        visible=AssertGroup(asserts=asserts[:1], setup=setup),
    )
    return task, HiddenTests(base=AssertGroup(asserts=asserts, setup=setup), plus=None, reference=code)


def _normalise(source: str) -> str:
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _entry_point(code: str, asserts: Sequence[str]) -> str:
    """The function of `code` that every assert calls: not ``set`` in ``set(f(x))``, nor ``isclose``."""
    try:
        defined = {n.name for n in parse(code).body if isinstance(n, ast.FunctionDef)}
    except (SyntaxError, ValueError):
        raise BrokenTask("its reference does not parse") from None
    try:
        called = [called_names(parse(a)) for a in asserts]
    except (SyntaxError, ValueError):
        raise BrokenTask("an assert does not parse") from None
    common = sorted(defined.intersection(*called))
    if len(common) != 1:
        raise BrokenTask("its reference does not define the one function that the asserts call")
    return common[0]


def _setup(code: str, setup: str, asserts: Sequence[str]) -> str:
    """`setup` with the imports and with those classes of `code` that it and the asserts need."""
    classes = {n.name: n for n in parse(code).body if isinstance(n, ast.ClassDef)}
    try:
        used = _names_read(setup).union(*(_names_read(a) for a in asserts))
    except (SyntaxError, ValueError):
        raise BrokenTask("its set-up code does not parse") from None
    parts = [ast.unparse(classes[name]) for name in sorted(used & classes.keys())]
    return "\n".join(p for p in (imports_for(asserts), *parts, setup) if p)


def _names_read(source: str) -> set[str]:
    return {n.id for n in ast.walk(parse(source)) if isinstance(n, ast.Name)}


class Mbpp500Suite:
    """MBPP's test split, ids 11–510: EvalPlus's prompt and inputs where MBPP+ has the task, else the original's.

    Attributes:
        version: Hash of the tasks.
        from_evalplus: Number of tasks that are MBPP+'s.

    Raises:
        DataError: MBPP or MBPP+ is not at hand, or a task of it is broken.
    """

    def __init__(self) -> None:
        plus = EvalPlusSuite("mbpp")
        plus_tasks, plus_hidden = {t.id: t for t in plus.tasks()}, plus.hidden()
        pairs = []
        for row in load_mbpp():
            if row["task_id"] not in _TEST_IDS:
                continue
            task_id = f"Mbpp/{row['task_id']}"
            if task_id in plus_tasks:
                pairs.append((dataclasses.replace(plus_tasks[task_id], suite="mbpp500"), plus_hidden[task_id]))
                continue
            try:
                pairs.append(convert_mbpp(row, "mbpp500"))
            except BrokenTask as e:
                raise DataError(f"{task_id}: {e}; point {OVERRIDE} at MBPP's mbpp.jsonl") from None
        self.name = "mbpp500"
        self.evalplus_dataset: str | None = None
        self.version = tasks_hash(pairs)
        self.from_evalplus = sum(task.id in plus_tasks for task, _ in pairs)
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}

    def tasks(self) -> Sequence[Task]:
        """The tasks, ordered by id."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden
