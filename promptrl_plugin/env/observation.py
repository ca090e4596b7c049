"""The observation: one float32 vector of documented layout.

| block | features | where they come from |
| --- | --- | --- |
| ``task`` | length, visible tests, arguments and types of the visible call, dialect | the original prompt |
| ``prompt`` | length ratio, word overlap with the original, notes, examples, repair | the current prompt |
| ``code`` | size, branches, loops, compiles, same program again | the last program, not executed |
| ``exec`` | last and best fraction, change, failure class one-hot | visible tests; all 0 at ``feedback=none`` |
| ``history`` | step, budget left, last action one-hot, counts of every action | the episode |
| ``agreement`` | programs that pass (of the budget), largest cluster (of what ends the episode) | generated inputs |
| ``embedding`` | principal components of the task's sentence embedding | all-MiniLM-L6-v2 |

The block ``agreement`` is there only where the selector is agreement (see `promptrl_plugin.env.selection`).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptrl_plugin.env.episode import Episode
from promptrl_plugin.env.selection import clusters, passed
from promptrl_plugin.errors import ConfigError
from promptrl_plugin.parsing import retried
from promptrl_plugin.prompts.action_space import ActionTable
from promptrl_plugin.prompts.template import text
from promptrl_plugin.records import FailureKind, Feedback, Task

__all__ = ["LIMIT", "OBSERVATION_VERSION", "ObservationLayout"]

OBSERVATION_VERSION = 1
LIMIT = 10.0  #: features are clipped to [-LIMIT, LIMIT]

_TASK = ("log_chars", "visible_tests", "call_args", "arg_list", "arg_str", "arg_number", "result_bool", "humaneval")
_PROMPT = ("length_ratio", "word_overlap", "notes", "examples", "repair", "edits")
_CODE = ("log_lines", "branches", "loops", "compiles", "same_code", "distinct_programs")
_EXEC = ("seen", "last_fraction", "best_fraction", "change", *(f"failure_{k.value}" for k in FailureKind))
_HISTORY = ("step", "budget_left", "last_chance")
_AGREEMENT = ("passing", "largest_cluster")


@dataclass(frozen=True, slots=True)
class ObservationLayout:
    """Names of all features, in order.

    Attributes:
        names: One name a feature, ``"block.feature"``.
        n_actions: Size of the action table.
        embedding_dim: Components of the task embedding.
        agreement: Whether the block ``agreement`` is in it.
        blank: Blocks whose features are always 0 (an ablation).
    """

    names: tuple[str, ...]
    n_actions: int
    embedding_dim: int
    agreement: bool = False
    blank: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, table: ActionTable, embedding_dim: int, blank: Iterable[str] = (), *, agreement: bool = False
    ) -> ObservationLayout:
        """Layout for an action table; `agreement` where programs that pass are compared with each other.

        Raises:
            ConfigError: `blank` names a block that does not exist.
        """
        actions = [a.name for a in table.actions]
        names = [
            *(f"task.{n}" for n in _TASK),
            *(f"prompt.{n}" for n in _PROMPT),
            *(f"code.{n}" for n in _CODE),
            *(f"exec.{n}" for n in _EXEC),
            *(f"history.{n}" for n in _HISTORY),
            *(f"history.last_{a}" for a in actions),
            *(f"history.count_{a}" for a in actions),
            *(f"agreement.{n}" for n in _AGREEMENT if agreement),
            *(f"embedding.{i}" for i in range(embedding_dim)),
        ]
        blocks = {n.partition(".")[0] for n in names} | {"agreement", "embedding"}
        if unknown := set(blank) - blocks:
            raise ConfigError(f"unknown block of the observation {min(unknown)!r}; one of: {', '.join(sorted(blocks))}")
        return cls(tuple(names), len(actions), embedding_dim, agreement, tuple(blank))

    @property
    def size(self) -> int:
        return len(self.names)

    def observe(self, episode: Episode) -> npt.NDArray[np.float32]:
        """Observation of an episode's current state, float32 ``[size]``."""
        values = [
            *_task_features(episode.task),
            *_prompt_features(episode),
            *_code_features(episode),
            *_exec_features(episode),
            *self._history_features(episode),
            *(_agreement_features(episode) if self.agreement else ()),
            *episode.task_context.embedding.tolist(),
        ]
        observation = np.clip(np.asarray(values, dtype=np.float32), -LIMIT, LIMIT)
        if self.blank:
            observation[[n.partition(".")[0] in self.blank for n in self.names]] = 0.0
        return observation

    def _history_features(self, episode: Episode) -> list[float]:
        left = episode.budget - episode.spent
        counts, last = [0.0] * self.n_actions, [0.0] * self.n_actions
        for record in episode.steps:
            counts[record.action] += 1.0
        if episode.steps:
            last[episode.steps[-1].action] = 1.0
        return [len(episode.steps) / 10, left / max(1, episode.budget), float(left == 1), *last, *counts]


def _task_features(task: Task) -> list[float]:
    call = _visible_call(task)
    args = call[0] if call is not None else []
    result = call[1] if call is not None else None
    return [
        math.log1p(len(task.prompt)) / 8,
        min(task.visible.count, 5) / 5,
        len(args) / 4,
        float(any(isinstance(a, ast.List | ast.Tuple) for a in args)),
        float(any(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in args)),
        float(any(isinstance(a, ast.Constant) and isinstance(a.value, int | float) for a in args)),
        float(isinstance(result, ast.Constant) and isinstance(result.value, bool)),
        float(task.dialect == "humaneval"),
    ]


def _visible_call(task: Task) -> tuple[list[ast.expr], ast.expr | None] | None:
    """Arguments of the first visible call of the entry point and the value it is compared with."""
    for source in task.visible.asserts:
        try:
            statement = _parse(source).body[0]
        except SyntaxError:
            continue
        test = statement.test if isinstance(statement, ast.Assert) else None
        expected = test.comparators[0] if isinstance(test, ast.Compare) else None
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == task.entry_point:
                return list(node.args), expected
    return None


def _prompt_features(episode: Episode) -> list[float]:
    state = episode.state
    now = text(episode.task, state)
    first = text(episode.task, episode.population[0])
    words_now, words_first = set(re.findall(r"\w+", now.lower())), set(re.findall(r"\w+", first.lower()))
    overlap = len(words_now & words_first) / max(1, len(words_now | words_first))
    return [
        min(len(now) / max(1, len(first)), LIMIT),
        overlap,
        len(state.notes) / 3,
        len(state.examples) / 3,
        float(state.repair is not None),
        min(len(state.operators), 10) / 5,
    ]


def _code_features(episode: Episode) -> list[float]:
    if not episode.attempts:
        return [0.0] * len(_CODE)
    program = episode.attempts[-1].program
    try:
        nodes = list(ast.walk(_parse(program))) if program.strip() else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    branches = sum(isinstance(n, ast.If | ast.IfExp | ast.BoolOp | ast.Try | ast.comprehension) for n in nodes)
    loops = sum(isinstance(n, ast.For | ast.While | ast.comprehension) for n in nodes)
    return [
        math.log1p(program.count("\n") + 1) / 4,
        branches / 5,
        loops / 3,
        float(bool(nodes)),
        float(episode.steps[-1].repeated) if episode.steps else 0.0,
        len({a.program for a in episode.attempts}) / max(1, len(episode.attempts)),
    ]


def _exec_features(episode: Episode) -> list[float]:
    """Features of execution; all 0 where nothing was executed or may be seen."""
    zeros = [0.0] * len(_EXEC)
    if episode.context.feedback is Feedback.NONE or not episode.attempts:
        return zeros
    last = episode.attempts[-1].verdict
    if last is None:
        return zeros
    fractions = [a.verdict.fraction for a in episode.attempts if a.verdict is not None]
    change = fractions[-1] - (fractions[-2] if len(fractions) > 1 else 0.0)
    one_hot = [float(last.failure is kind) for kind in FailureKind]
    return [1.0, last.fraction, max(fractions), change, *one_hot]


def _agreement_features(episode: Episode) -> list[float]:
    """How many programs pass what is shown, and how near the largest cluster of them is to ending the episode."""
    passing = sum(map(passed, episode.attempts)) / max(1, episode.budget)
    sizes = clusters(a.outcomes for a in episode.attempts)
    return [passing, max(sizes.values(), default=0) / episode.selector.agreeing]


def _parse(source: str) -> ast.Module:
    return retried(lambda: ast.parse(source))
