"""The library of solved train tasks that may be shown as examples."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from promptrl_plugin.errors import LeakageError
from promptrl_plugin.prompts.apps_text import is_apps
from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.prompts.state import Example
from promptrl_plugin.prompts.task_text import prose_of
from promptrl_plugin.records import Task, content_hash
from promptrl_plugin.suites.fingerprints import Fingerprint, fingerprint, first_leak, leaks
from promptrl_plugin.suites.visible import visible_tests

if TYPE_CHECKING:  # what is hidden is read by the trainer's call of `from_train_tasks` only
    from promptrl_plugin.suites.hidden import TrainTask

__all__ = ["DUPLICATE_SIMILARITY", "ExampleLibrary"]

Floats = npt.NDArray[np.float32]

#: Cosine similarity of sentence embeddings from which two tasks count as near-duplicates.
DUPLICATE_SIMILARITY = 0.95
#: An example longer than this (characters of prompt and program) is not among the fixed ones.
_MAX_FIXED_CHARS = 600


class ExampleLibrary:
    """Solved train tasks with their sentence embeddings.

    An example holds a train task's prompt and its reference program, no hidden test.

    Args:
        examples: The solved tasks.
        embeddings: Of their prompts, float32 ``[n, d]``; normalised here.

    Attributes:
        examples: As given.
        fingerprints: Of their tasks (`suites.fingerprints`), in order.

    Raises:
        ValueError: There is not one embedding for each example.
    """

    def __init__(self, examples: Sequence[Example], embeddings: Floats) -> None:
        if len(examples) != len(embeddings):
            raise ValueError(f"{len(examples)} examples, but {len(embeddings)} embeddings")
        self.examples = tuple(examples)
        self.embeddings = _unit(np.asarray(embeddings, dtype=np.float32))
        self._hashes = tuple(_task_hash(e.prompt) for e in self.examples)
        self.fingerprints = tuple(_fingerprint(e) for e in self.examples)
        self._ranking = self._fixed_ranking()

    @classmethod
    def from_train_tasks(cls, tasks: Sequence[TrainTask], embed: Callable[[Sequence[str]], Floats]) -> ExampleLibrary:
        """Library of the tasks whose reference is usable as an example.

        Args:
            tasks: Train tasks.
            embed: Sentence embeddings of texts, float32 ``[n, d]``.
        """
        examples = [e for t in tasks if (e := _example(t)) is not None]
        if not examples:
            return cls((), np.zeros((0, 1), dtype=np.float32))
        return cls(examples, embed([e.prompt for e in examples]))

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def hashes(self) -> tuple[str, ...]:
        """`Task.content_hash` of every example's task, in order."""
        return self._hashes

    def fixed_sets(
        self,
        size: int,
        sets: int,
        exclude_ids: frozenset[str] = frozenset(),
        exclude_hashes: frozenset[str] = frozenset(),
    ) -> list[tuple[Example, ...]]:
        """Sets of `size` out of a fixed ranking of short, typical and mutually different examples.

        Every task gets the same sets; where one of a set is excluded (a train task itself), the next in the
        ranking that no set holds stands in. Where the library is too small, the last sets are short or empty.
        """
        ranking = self._ranking
        planned = [ranking[k * size : (k + 1) * size] for k in range(sets)]
        spare = (i for i in ranking[sets * size :] if self._allowed(i, exclude_ids, exclude_hashes))
        chosen: list[tuple[Example, ...]] = []
        for plan in planned:
            kept = (i if self._allowed(i, exclude_ids, exclude_hashes) else next(spare, None) for i in plan)
            chosen.append(tuple(self.examples[i] for i in kept if i is not None))
        return chosen

    def nearest(
        self,
        embedding: Floats,
        k: int,
        exclude_ids: frozenset[str] = frozenset(),
        exclude_hashes: frozenset[str] = frozenset(),
    ) -> tuple[Example, ...]:
        """The `k` examples nearest to a task by cosine similarity, the nearest last (next to the task).

        Near-duplicates of the task (`DUPLICATE_SIMILARITY`) and of each other are left out: they would
        give the answer away on train tasks, and then promise what test tasks do not have.

        Args:
            embedding: Of the task's prompt, float32 ``[d]``.
            k: How many.
            exclude_ids: Task ids to leave out.
            exclude_hashes: `Task.content_hash` values to leave out.
        """
        if not self.examples:
            return ()
        similarity = self.embeddings @ _unit(np.asarray(embedding, dtype=np.float32)[None])[0]
        chosen: list[int] = []
        for i in np.argsort(-similarity, kind="stable"):
            if len(chosen) == k:
                break
            duplicate = similarity[i] >= DUPLICATE_SIMILARITY or any(
                float(self.embeddings[i] @ self.embeddings[j]) >= DUPLICATE_SIMILARITY for j in chosen
            )
            if not duplicate and self._allowed(int(i), exclude_ids, exclude_hashes):
                chosen.append(int(i))
        return tuple(self.examples[i] for i in reversed(chosen))

    def duplicates(self, task: Task) -> frozenset[str]:
        """Content hashes of the examples that are the task or a near-duplicate of it (`suites.fingerprints`).

        To be given to `fixed_sets` and `nearest` as `exclude_hashes`.
        """
        own = fingerprint(task)
        found = {h for h, other in zip(self._hashes, self.fingerprints, strict=True) if leaks([other], own)}
        return frozenset(found | {task.content_hash})

    def check_unseen(self, tasks: Iterable[Task]) -> None:
        """Make sure that none of these tasks, or a near-duplicate of one, is among the examples.

        Raises:
            LeakageError: One is.
        """
        asked = list(tasks)
        if (found := first_leak(self.fingerprints, asked, kind="solved example")) is not None:
            raise LeakageError(
                f"{asked[found[0]].id} has {found[1]}, which prompts show; solve another suite, or leave it out"
            )

    def _allowed(self, i: int, ids: frozenset[str], hashes: frozenset[str]) -> bool:
        return self.examples[i].task_id not in ids and self._hashes[i] not in hashes

    def _fixed_ranking(self, length: int = 12) -> tuple[int, ...]:
        """Indices for `fixed_sets`: the most central example first, then always the one farthest from those before.

        Only short examples of the more central half take part, so that none is an oddity.
        """
        if not self.examples:
            return ()
        sizes = np.array([len(e.prompt) + len(e.program) for e in self.examples])
        short = np.flatnonzero(sizes <= max(_MAX_FIXED_CHARS, int(sizes.min())))
        lean = short[sizes[short] <= np.median(sizes[short])]
        centrality = self.embeddings[lean] @ _unit(self.embeddings.mean(axis=0, keepdims=True))[0]
        central = lean[np.argsort(-centrality, kind="stable")][: max(length, (len(lean) + 1) // 2)]
        ranking = [int(central[0])]
        while len(ranking) < min(length, len(central)):
            closeness = (self.embeddings[central] @ self.embeddings[ranking].T).max(axis=1)
            closeness[np.isin(central, ranking)] = np.inf
            ranking.append(int(central[int(closeness.argmin())]))
        rest = [int(i) for i in np.argsort(sizes, kind="stable") if int(i) not in ranking]
        return (*ranking, *rest)


def _example(train_task: TrainTask) -> Example | None:
    """The example of a train task; None where its reference does not parse or lacks the entry point.

    APPS's references may be scripts or methods, and have no entry point at their top level.
    """
    task = train_task.task
    program = train_task.hidden.reference.replace("\r\n", "\n").expandtabs(4).strip()
    if task.prompt.lstrip().startswith(('"""', "'''")):
        program = _without_docstring(program)
    tree = parsed(program)
    if tree is None or not tree.body:
        return None
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    if task.dialect != "apps" and task.entry_point not in defined:
        return None
    if not prose_of(task.prompt):
        return None
    return Example(task.id, task.prompt, program)


def _without_docstring(program: str) -> str:
    """The program less the string that it begins with (EvalPlus: reference = prompt + solution)."""
    tree = parsed(program)
    first = tree.body[0] if tree and tree.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return program
    return "\n".join(program.split("\n")[first.end_lineno :]).strip()


def _fingerprint(example: Example) -> Fingerprint:
    """Fingerprint of the task that an example solves."""
    humaneval = not example.prompt.lstrip().startswith(('"""', "'''"))
    tree = parsed(example.program)
    functions = [n for n in (tree.body if tree else ()) if isinstance(n, ast.FunctionDef)]
    entry_point = functions[-1].name if functions else ""
    dialect = "apps" if is_apps(example.prompt) else "humaneval" if humaneval else "mbpp"
    visible = visible_tests(example.prompt, entry_point, dialect)
    task = Task(example.task_id, "", dialect, example.prompt, entry_point, visible)
    return fingerprint(task, reference=example.program)


def _task_hash(prompt: str) -> str:
    """`records.Task.content_hash` of a prompt."""
    return content_hash(" ".join(prompt.lower().split()))


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1.0, norms), dtype=np.float32)
