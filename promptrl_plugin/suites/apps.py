"""APPS, in its own form: statements in plain text, whole programs for answers, pairs of input and output for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptrl_plugin.errors import DataError
from promptrl_plugin.groups import PairGroup, write_json
from promptrl_plugin.records import Task
from promptrl_plugin.suites.apps_data import AppsRow, load_apps
from promptrl_plugin.suites.apps_statement import visible_pairs
from promptrl_plugin.suites.evalplus import tasks_hash
from promptrl_plugin.suites.fingerprints import find_near_duplicates, fingerprint
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["AppsSuite", "AppsTrainSuite", "apps_prompt", "convert_apps"]


def apps_prompt(question: str, starter_code: str, function: str) -> str:
    """The prompt of ``eval/generate_gpt_codes.py`` of APPS, to the letter."""
    starter = f"\n{starter_code}" if starter_code else ""
    form = "Call-Based" if function else "Standard Input"
    return f"\nQUESTION:\n{question}{starter}\nUse {form} format\nANSWER:\n"


def convert_apps(row: AppsRow, split: str, suite: str) -> tuple[Task, HiddenTests] | None:
    """What a solver may see of a task, and what grades it; None where it has no test that can be run."""
    hidden = _hidden_pairs(row)
    if hidden is None:
        return None
    task = Task(
        id=f"APPS/{split}/{row.number}" if split else f"APPS/{row.number}",
        suite=suite,
        dialect="apps",
        prompt=apps_prompt(row.question, row.starter_code, row.function),
        entry_point=row.function,
        visible=visible_pairs(row.question, row.function, row.starter_code),
    )
    return task, HiddenTests(base=hidden, plus=None, reference=row.solutions[0] if row.solutions else "")


def _hidden_pairs(row: AppsRow) -> PairGroup | None:
    if not row.inputs:
        return None
    if row.function:
        if not all(isinstance(given, list) for given in row.inputs):
            return None
        return PairGroup(row.function, *(tuple(map(write_json, side)) for side in (row.inputs, row.outputs)))
    inputs, outputs = [_text(given) for given in row.inputs], [_text(wanted) for wanted in row.outputs]
    if None in inputs or None in outputs:
        return None
    return PairGroup("", *(tuple(t for t in side if t is not None) for side in (inputs, outputs)))


def _text(side: Any) -> str | None:
    """Standard input or output: a text, or its lines."""
    if isinstance(side, list) and all(isinstance(line, str) for line in side):
        return "\n".join(side)
    return side if isinstance(side, str) else None


class AppsSuite:
    """APPS's test split, or one difficulty of it; where the data has no test split, all that it has.

    Attributes:
        version: Hash of the tasks.
        note: How many tasks show no test, and how many were left out.

    Raises:
        DataError: The data is missing, unreachable or malformed.
    """

    evalplus_dataset: str | None = None

    def __init__(self, difficulty: str = "") -> None:
        data = load_apps("test")
        self._fill(f"apps-{difficulty}" if difficulty else "apps", data.split, data.rows, difficulty)

    def _fill(self, name: str, split: str, rows: Sequence[AppsRow], difficulty: str = "") -> None:
        self.name = name
        chosen = [row for row in rows if not difficulty or row.difficulty == difficulty]
        pairs = [pair for row in chosen if (pair := convert_apps(row, split, name)) is not None]
        if not pairs:
            raise DataError(
                f"the APPS data has no {difficulty + ' ' if difficulty else ''}task with tests; use another --suite, "
                "or point PROMPTRL_APPS_PATH at the whole of APPS"
            )
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}
        self.version = tasks_hash(pairs)
        self._left_out = len(chosen) - len(pairs)

    @property
    def note(self) -> str:
        blind = sum(not task.visible.count for task in self._tasks)
        return f"{blind} show no test in the statement; {self._left_out} more have no tests at all"

    def tasks(self) -> Sequence[Task]:
        """The tasks, by number."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden


class AppsTrainSuite(AppsSuite):
    """APPS's train split, less near-duplicates of its test split.

    Raises:
        DataError: The data is missing, unreachable or malformed, or has no train split.
    """

    def __init__(self) -> None:
        data = load_apps("train")
        self._fill("apps-train", data.split, data.rows)
        test = load_apps("test")
        if test.split != "test":
            return
        tests = [pair for row in test.rows if (pair := convert_apps(row, "test", "apps")) is not None]
        ours = [fingerprint(task, self._hidden[task.id].reference) for task in self._tasks]
        theirs = [fingerprint(task, hidden.reference) for task, hidden in tests]
        near = {pair.candidate for pair in find_near_duplicates(ours, theirs)}
        self._near = len(near)
        self._tasks = tuple(task for task in self._tasks if task.id not in near)
        self._hidden = {task.id: self._hidden[task.id] for task in self._tasks}
        self.version = tasks_hash([(task, self._hidden[task.id]) for task in self._tasks])

    _near = 0

    @property
    def note(self) -> str:
        return f"{super().note}; {self._near} are near-duplicates of test tasks and left out"
