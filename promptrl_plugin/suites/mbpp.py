"""The original MBPP: its test split (`mbpp500`) and the tasks that may train (`mbpp-train`).

Austin et al. 2021, arXiv 2108.07732; 974 tasks: ids 1–10 few-shot prompt, 11–510 test, 511–600 validation,
601–974 train. EvalPlus's MBPP+ takes tasks from all of them, so that MBPP's own train split is no train
split for MBPP+.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.errors import DataError
from promptrl_plugin.records import AssertGroup, Task
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.evalplus import EvalPlusSuite, tasks_hash
from promptrl_plugin.suites.fingerprints import Fingerprint, NearDuplicate, find_near_duplicates, fingerprint
from promptrl_plugin.suites.hidden import HiddenTests
from promptrl_plugin.suites.visible import called_names, imports_for

__all__ = [
    "EVALUATED_SUITES",
    "BrokenTask",
    "Mbpp500Suite",
    "MbppTrainReport",
    "MbppTrainSuite",
    "convert_mbpp",
    "load_mbpp",
]

#: Environment variable that points at a JSON Lines file of the original MBPP.
OVERRIDE = "PROMPTRL_MBPP_PATH"
HUB_ID = "google-research-datasets/mbpp"
#: The suites that results are reported on; none of their tasks trains.
EVALUATED_SUITES = ("mbpp", "mbpp500", "humaneval", "starter-test")

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
    import datasets

    try:
        splits = datasets.load_dataset(
            HUB_ID, "full", download_config=datasets.DownloadConfig(max_retries=1, disable_tqdm=True)
        )
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
        defined = {n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)}
    except (SyntaxError, ValueError):
        raise BrokenTask("its reference does not parse") from None
    try:
        called = [called_names(ast.parse(a)) for a in asserts]
    except (SyntaxError, ValueError):
        raise BrokenTask("an assert does not parse") from None
    common = sorted(defined.intersection(*called))
    if len(common) != 1:
        raise BrokenTask("its reference does not define the one function that the asserts call")
    return common[0]


def _setup(code: str, setup: str, asserts: Sequence[str]) -> str:
    """`setup` with the imports and with those classes of `code` that it and the asserts need."""
    classes = {n.name: n for n in ast.parse(code).body if isinstance(n, ast.ClassDef)}
    try:
        used = _names_read(setup).union(*(_names_read(a) for a in asserts))
    except (SyntaxError, ValueError):
        raise BrokenTask("its set-up code does not parse") from None
    parts = [ast.unparse(classes[name]) for name in sorted(used & classes.keys())]
    return "\n".join(p for p in (imports_for(asserts), *parts, setup) if p)


def _names_read(source: str) -> set[str]:
    return {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}


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


@dataclass(frozen=True, slots=True)
class MbppTrainReport:
    """How `mbpp-train` came to its size: ``found = excluded_by_id + broken + near_duplicates + remaining``.

    Attributes:
        found: Tasks of the original MBPP.
        excluded_by_id: Of them, those that an evaluated suite contains.
        broken: Reason by task id, for those that cannot be put into MBPP+'s form.
        near_duplicates: Closest evaluated task and reason, one entry for each task left out for it.
        remaining: Tasks of the suite.
        compared: Number of tasks compared with, by evaluated suite.
        not_compared: Why it was not, by evaluated suite that could not be loaded.
    """

    found: int
    excluded_by_id: int
    broken: Mapping[str, str]
    near_duplicates: tuple[NearDuplicate, ...]
    remaining: int
    compared: Mapping[str, int]
    not_compared: Mapping[str, str]


class MbppTrainSuite:
    """Original MBPP tasks that no evaluated suite contains, without near-duplicates of evaluated tasks.

    MBPP+ rewrote some of MBPP's texts, so that its tasks are compared in their original form, too.

    Args:
        evaluated: Names of the suites that results are reported on. ``mbpp`` and ``mbpp500`` must be at
            hand; another one that cannot be loaded is left out and named in the report.

    Raises:
        DataError: MBPP or MBPP+ is not at hand.
    """

    def __init__(self, evaluated: Sequence[str] = EVALUATED_SUITES) -> None:
        rows = load_mbpp()
        suites, not_compared = _load_evaluated(evaluated)
        evaluated_ids = {task.id for suite in suites for task in suite.tasks()}
        against = [p for suite in suites for p in _fingerprints(suite)]
        candidates: list[tuple[Task, HiddenTests]] = []
        broken: dict[str, str] = {}
        for row in rows:
            task_id = f"Mbpp/{row['task_id']}"
            try:
                pair = convert_mbpp(row, "mbpp-train")
                if task_id in evaluated_ids:
                    against.append(_fingerprint(*pair))
                    continue
                _require_plain(pair[0])
            except BrokenTask as e:
                if task_id not in evaluated_ids:
                    broken[task_id] = str(e)
            else:
                candidates.append(pair)
        near = _closest(find_near_duplicates((_fingerprint(*pair) for pair in candidates), against))
        pairs = [pair for pair in candidates if pair[0].id not in near]
        self.name = "mbpp-train"
        self.evalplus_dataset: str | None = None
        self.version = tasks_hash(pairs)
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}
        self._report = MbppTrainReport(
            found=len(rows),
            excluded_by_id=len(rows) - len(candidates) - len(broken),
            broken=broken,
            near_duplicates=tuple(near.values()),
            remaining=len(pairs),
            compared={suite.name: len(suite.tasks()) for suite in suites},
            not_compared=not_compared,
        )

    def tasks(self) -> Sequence[Task]:
        """The tasks, ordered by id."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden

    def report(self) -> MbppTrainReport:
        """What was left out, and why."""
        return self._report


def _load_evaluated(names: Sequence[str]) -> tuple[list[Suite], dict[str, str]]:
    """The evaluated suites, and the reasons of those that could not be loaded."""
    from promptrl_plugin.suites.registry import load_suite

    suites: list[Suite] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            suites.append(load_suite(name))
        except DataError as e:
            if name in ("mbpp", "mbpp500"):
                raise
            missing[name] = str(e)
    return suites, missing


def _fingerprints(suite: Suite) -> list[Fingerprint]:
    hidden = suite.hidden()
    return [_fingerprint(task, hidden[task.id]) for task in suite.tasks()]


def _fingerprint(task: Task, hidden: HiddenTests) -> Fingerprint:
    asserts = hidden.base.asserts if isinstance(hidden.base, AssertGroup) else ()
    return fingerprint(task, hidden.reference, asserts)


def _require_plain(task: Task) -> None:
    """Refuse a task whose visible assert uses names that its prompt does not explain.

    Raises:
        BrokenTask: It does; nobody could solve the task from its prompt.
    """
    imported = {line.removeprefix("import ") for line in imports_for(task.visible.asserts).splitlines()}
    names = _names_read(task.visible.asserts[0]) - {task.entry_point} - imported
    if unknown := sorted(n for n in names if not hasattr(builtins, n)):
        raise BrokenTask(f"its asserts use {unknown[0]!r}, which the prompt does not define")


def _closest(pairs: Iterable[NearDuplicate]) -> dict[str, NearDuplicate]:
    """First pair of each candidate."""
    found: dict[str, NearDuplicate] = {}
    for pair in pairs:
        found.setdefault(pair.candidate, pair)
    return found
