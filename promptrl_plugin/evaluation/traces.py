"""What strategies did on their way, read from the trace files of a comparison (`harnesses.samples`).

Traces of earlier versions lack the steps and the failure classes; what cannot be told from them is None here.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.evaluation.compare import Outcome
from promptrl_plugin.harnesses.samples import sibling
from promptrl_plugin.records import FailureKind
from promptrl_plugin.storage.jsonl import read_jsonl

__all__ = [
    "FIRST",
    "Episode",
    "OperatorUse",
    "TracedStep",
    "episode",
    "examples",
    "load_traces",
    "operator_uses",
    "word_diff",
]

Trace = Mapping[str, Any]

EXAMPLES = 3
FIRST = "first step"
"""In place of a failure class: nothing was made before."""
UNSEEN = "not looked at"
PASSED = "passed"
SITUATIONS = (FIRST, *(k.value for k in FailureKind), PASSED, UNSEEN)
"""What a step may follow, in the order of tables."""


@dataclass(frozen=True, slots=True)
class TracedStep:
    """One action of an episode.

    Attributes:
        action: Its name.
        after: Failure class of the latest program before it, or another of `SITUATIONS`.
        generations: Spent on the task until then.
        prompt: The prompt after it, as an outline: the task's text, one line for each solved task shown before
            it, one for a failed program to be mended.
        program: What was written, None where the action writes none.
        visible: Share of the shown tests that it passes, None where none was shown.
        failure: Its failure class, None where it passes or nothing was shown.
    """

    action: str
    after: str
    generations: int
    prompt: str
    program: str | None
    visible: float | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Episode:
    """One task with one seed, step by step.

    Attributes:
        seed: Of the cell.
        outcome: What became of it.
        original: The task's own prompt.
        steps: What was done.
    """

    seed: int
    outcome: Outcome
    original: str
    steps: tuple[TracedStep, ...]


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """How often a strategy took one action.

    Attributes:
        name: Of the operator.
        by_step: ``by_step[i]``: times that it was the step number ``i + 1``.
        by_situation: Times by what it followed (`SITUATIONS`); None where the traces do not tell.
        made: Programs that it led to and that were tested; None likewise.
        passed: Those of them that pass everything shown; None likewise.
    """

    name: str
    by_step: tuple[int, ...]
    by_situation: dict[str, int] | None
    made: int | None
    passed: int | None

    @property
    def total(self) -> int:
        return sum(self.by_step)


def load_traces(
    folder: Path, samples: Mapping[str, str], results: Mapping[str, Sequence[Outcome]]
) -> dict[str, dict[str, Trace]]:
    """Trace rows by cell name and task id; a cell whose file is gone is left out.

    Args:
        folder: Of the comparison.
        samples: Samples files by cell name (`read_results`); cells that are not in it are found by what they
            spent and did on every task.
        results: Outcomes by cell name.
    """
    traces: dict[str, dict[str, Trace]] = {}
    for cell in results:
        path = sibling(folder / samples[cell], ".trace.jsonl") if cell in samples else None
        if path is not None and path.exists():
            traces[cell] = _rows(path)
    unnamed = [cell for cell in results if cell not in samples]
    for path in sorted(folder.rglob("*.trace.jsonl")) if unnamed else ():
        rows = _rows(path)
        for cell in unnamed:
            if cell not in traces and all(_same(o, rows.get(o.task_id)) for o in results[cell]):
                traces[cell] = rows
                break
    return traces


def episode(seed: int, outcome: Outcome, trace: Trace, original: str = "") -> Episode | None:
    """The steps of a trace; None where it has none (another strategy, or an older version)."""
    steps = trace.get("steps")
    if not steps:
        return None
    found: list[TracedStep] = []
    after = FIRST
    for action, step in zip(trace["actions"], steps, strict=True):
        made = trace["candidates"][step["candidate"]] if step["candidate"] is not None else None
        failure, visible = (made["failure"], made["visible"]) if made else (None, None)
        program = made["solution"] if made else None
        found.append(TracedStep(action, after, step["generations"], _outline(step), program, visible, failure))
        if made:
            after = failure or (UNSEEN if visible is None else PASSED)
    return Episode(seed, outcome, original or found[0].prompt, tuple(found))


def operator_uses(actions: Iterable[Sequence[str]], episodes: Iterable[Episode]) -> list[OperatorUse]:
    """How often each action was taken, the most frequent first.

    Args:
        actions: Of one strategy, by task and seed.
        episodes: The same step by step; none where the traces do not have the steps.
    """
    by_step: dict[str, Counter[int]] = {}
    for taken in actions:
        for i, action in enumerate(taken):
            by_step.setdefault(action, Counter())[i] += 1
    length = 1 + max((max(c) for c in by_step.values()), default=-1)
    steps = [s for e in episodes for s in e.steps]
    situations = Counter((s.action, s.after) for s in steps)
    made = Counter(s.action for s in steps if s.visible is not None)
    passed = Counter(s.action for s in steps if s.visible is not None and s.failure is None)
    uses = [
        OperatorUse(
            name,
            tuple(counts[i] for i in range(length)),
            {w: situations[name, w] for w in SITUATIONS} if steps else None,
            made[name] if steps else None,
            passed[name] if steps else None,
        )
        for name, counts in by_step.items()
    ]
    return sorted(uses, key=lambda u: (-u.total, u.name))


def examples(episodes: Sequence[Episode], solved_by: Mapping[str, float]) -> list[tuple[str, list[Episode]]]:
    """Episodes worth reading, by what became of them; always the same ones.

    Of those that took more than one program, each of another task: up to `EXAMPLES` solved ones, first those that
    fewest strategies solve, each ending in another action; then as many that pass the visible tests and fail the
    hidden ones, and as many that fail both, longest first.

    Args:
        episodes: Of one strategy.
        solved_by: Number of other strategies that solve a task, by its id.
    """
    long = [e for e in episodes if sum(s.program is not None for s in e.steps) > 1]
    solved = sorted(
        (e for e in long if e.outcome.strict), key=lambda e: (solved_by.get(e.outcome.task_id, 0), len(e.steps))
    )
    longest = sorted((e for e in long if not e.outcome.strict), key=lambda e: -len(e.steps))
    named = (
        ("Solved after more than one program", _distinct(solved, lambda e: e.steps[-1].action)),
        ("Passes the visible tests, fails hidden ones", _distinct(e for e in longest if e.outcome.visible)),
        ("Not solved", _distinct(e for e in longest if not e.outcome.visible)),
    )
    return [(name, found[:EXAMPLES]) for name, found in named if found]


def word_diff(old: str, new: str) -> list[tuple[str, str]]:
    """``(kind, text)`` with kind ``"same"``, ``"old"`` or ``"new"``, word by word (`difflib`)."""
    a, b = _words(old), _words(new)
    pieces: list[tuple[str, str]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(("same", "".join(a[i1:i2])))
            continue
        pieces += [("old", "".join(a[i1:i2]))] * (i2 > i1) + [("new", "".join(b[j1:j2]))] * (j2 > j1)
    return pieces


def _distinct(episodes: Iterable[Episode], of: Callable[[Episode], str] | None = None) -> list[Episode]:
    """The first of each task, and of each value of `of`."""
    found: list[Episode] = []
    seen: set[str] = set()
    for e in episodes:
        marks = {e.outcome.task_id} | ({of(e)} if of is not None else set())
        if not marks & seen:
            found.append(e)
            seen |= marks
    return found


def _rows(path: Path) -> dict[str, Trace]:
    return {row["task_id"]: row for row in read_jsonl(path, allow_torn_tail=True)}


def _same(outcome: Outcome, row: Trace | None) -> bool:
    return row is not None and all(
        row[k] == getattr(outcome, k) for k in ("generations", "prompt_tokens", "completion_tokens")
    ) and tuple(row["actions"]) == outcome.actions  # fmt: skip


def _outline(step: Mapping[str, Any]) -> str:
    before = "".join(f"[solved task {i}]\n" for i in step["examples"])
    return f"{before}{step['text'].strip()}\n" + (
        "[the failed program, and what went wrong]\n" if step["repair"] else ""
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\S+[^\S\n]*|\n|[^\S\n]+", text)
