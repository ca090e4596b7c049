"""The prompt of one task as a value: what operators edit, and nothing else."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from promptrl_plugin.prompts.task_text import prose_of
from promptrl_plugin.records import Task, content_hash

__all__ = ["Example", "PromptState", "Repair"]


@dataclass(frozen=True, slots=True)
class Example:
    """A solved train task, shown before the task at hand.

    Attributes:
        task_id: Id of the train task.
        prompt: Its prompt in EvalPlus's form.
        program: A right program, without the prompt's docstring.
    """

    task_id: str
    prompt: str
    program: str


@dataclass(frozen=True, slots=True)
class Repair:
    """A failed attempt that is to be mended.

    Attributes:
        program: What was tried.
        detail: `GroupVerdict.detail` of the visible tests.
    """

    program: str
    detail: str


@dataclass(frozen=True, slots=True)
class PromptState:
    """All that distinguishes an edited prompt from the task's own.

    Code, asserts and examples of the task are not in here, so no operator can touch them.

    Attributes:
        prose: Natural-language segments of the task's prompt, in its order (`task_text.split`).
        notes: Sentences added to the task text, each on a line of its own after the description.
        examples: Solved train tasks, first shown first.
        repair: A failed attempt to mend.
        completion: Ask a chat model, too, to complete the prompt's plain form.
        operators: Names of the operators that led here, oldest first.
    """

    prose: tuple[str, ...]
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    repair: Repair | None = None
    completion: bool = False
    operators: tuple[str, ...] = ()

    @classmethod
    def initial(cls, task: Task) -> PromptState:
        """The unedited prompt, which `template.render` turns into EvalPlus's own."""
        return cls(prose_of(task.prompt))

    @property
    def key(self) -> str:
        """Content hash of everything but the lineage: equal keys render to the same prompt."""
        return _key(self.prose, self.notes, self.examples, self.repair, self.completion)


@functools.lru_cache(maxsize=1 << 16)  # asked for many times a step, of few states
def _key(
    prose: tuple[str, ...],
    notes: tuple[str, ...],
    examples: tuple[Example, ...],
    repair: Repair | None,
    completion: bool,
) -> str:
    shown = [(e.prompt, e.program) for e in examples]
    failed = None if repair is None else (repair.program, repair.detail)
    form = ("completion",) if completion else ()
    return content_hash("prompt", prose, notes, shown, failed, *form)
