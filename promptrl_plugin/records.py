"""Frozen records that pass between the layers: tasks, prompts, completions, verdicts, samples.

What is *hidden* (base and plus inputs, reference solutions) is deliberately not here: it lives in
`promptrl_plugin.suites.hidden`, which import-linter forbids to every module that acts on test tasks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from promptrl_plugin.groups import AssertGroup, PairGroup, content_hash

__all__ = [
    "AssertGroup",
    "Candidate",
    "Check",
    "Completion",
    "Decoding",
    "Effect",
    "Execute",
    "FailureKind",
    "Feedback",
    "Generate",
    "GenerationRequest",
    "GroupVerdict",
    "Message",
    "OptimizedPrompt",
    "PairGroup",
    "Prompt",
    "Sample",
    "Status",
    "Step",
    "Task",
    "content_hash",
]


class Feedback(enum.StrEnum):
    """What execution a strategy may see on a test task."""

    NONE = "none"
    VISIBLE = "visible"
    ORACLE = "oracle"


class Status(enum.StrEnum):
    """Verdict on one group of tests. `PASS`, `FAIL` and `TIMEOUT` are EvalPlus's own words.

    `ERROR` means that the judge could not decide; it must never be counted as a failure.
    """

    PASS = "pass"
    FAIL = "fail"
    TIMEOUT = "timeout"
    ERROR = "error"


class FailureKind(enum.StrEnum):
    """Why the first failing test failed; what the agent observes one-hot."""

    NO_CODE = "no_code"
    SYNTAX = "syntax"
    NAME = "name"  # entry point missing, or a NameError
    WRONG_VALUE = "wrong_value"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Task:
    """One programming problem, as a solver may see it: nothing in here is hidden.

    Attributes:
        id: The suite's own id, e.g. ``"Mbpp/2"``.
        suite: Name of the suite it was loaded from.
        dialect: ``"mbpp"`` (docstring with asserts), ``"humaneval"`` (signature and docstring) or ``"apps"``
            (statement in plain text); decides the form of requests, stop strings and programs.
        prompt: EvalPlus's or APPS's prompt, verbatim.
        entry_point: Name of the function to be written; ``""`` for a script.
        visible: The tests that a reader of the prompt sees.
    """

    id: str
    suite: str
    dialect: str
    prompt: str
    entry_point: str
    visible: AssertGroup | PairGroup

    @property
    def content_hash(self) -> str:
        """Hash of normalised prompt text (case- and whitespace-insensitive), not of the id."""
        return content_hash(" ".join(self.prompt.lower().split()))


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; `role` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in both of its forms; the backbone picks the one that it can take.

    Attributes:
        messages: Turns for a model with a chat template; none: a prompt to be completed by any model (see `in_chat`).
        prefix: Beginning of the assistant's turn, already written (EvalPlus's response prefix and
            opening fence, for code); the completion goes on from here. May be empty.
        plain: The text for a model without a template; the completion goes on from here.
        stop: Strings that end a chat completion (besides end of turn); not part of its text.
        plain_stop: The same for a plain completion.
    """

    messages: tuple[Message, ...]
    prefix: str
    plain: str
    stop: tuple[str, ...] = ()
    plain_stop: tuple[str, ...] = ()

    def in_chat(self, chat: bool) -> bool:
        """Whether it is asked in chat form, of a backbone whose `Backbone.chat` is `chat`."""
        return chat and bool(self.messages)

    def stops(self, chat: bool) -> tuple[str, ...]:
        """What ends its completion, asked of such a backbone."""
        return self.stop if self.in_chat(chat) else self.plain_stop


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode. `temperature` 0 is greedy, and then `top_p` is without effect."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 768

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. The same request always gives the same completion (cache key).

    `seed` and `index` count only when sampling: `seed` names the run's stream, `index` the draw.
    """

    prompt: Prompt
    decoding: Decoding
    seed: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backbone wrote.

    Attributes:
        text: Without prompt, prefix and stop string.
        prompt_tokens: Length of the prompt in the backbone's tokens.
        completion_tokens: Tokens generated, including the one that ended it.
        finish_reason: ``"stop"`` or ``"length"``.
        plain: Whether the plain form of the prompt was used (the program is the task's own prompt and then the text).
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    plain: bool = False


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """Verdict of one program on one group of tests.

    Attributes:
        status: See `Status`.
        passed: Outcome of each test that ran, in order; shorter than `total` after a crash, a
            timeout of the whole group, or in fail-fast mode.
        total: Number of tests in the group.
        failure: Why the first failing test failed; None when all passed.
        detail: One short line for a reader (and the reflecting operator): the failing call, the value
            got and wanted, or the exception. Only ever derived from this group.
    """

    status: Status
    passed: tuple[bool, ...]
    total: int
    failure: FailureKind | None = None
    detail: str = ""

    @property
    def fraction(self) -> float:
        """Share of the group's tests that passed, in [0, 1]; a test that did not run counts as failed."""
        return sum(self.passed) / self.total if self.total else 0.0


# --- Effects -------------------------------------------------------------------------------------
# Strategies, operators and episodes are generators: they yield an effect and are sent its result.
# One driver (`promptrl_plugin.env.scheduler`) runs many of them at once, batches what they ask for,
# and is the only place where generations are counted against the budget.


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for generations; the driver sends back ``list[Completion]``, and counts each request.

    `rewriter` asks the rewriter instead of the backbone, where the two differ.
    """

    requests: tuple[GenerationRequest, ...]
    rewriter: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """Ask what the feedback mode shows of these programs; sends back ``list[GroupVerdict | None]``.

    None for every program at ``feedback=none``.
    """

    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Execute:
    """Ask what these programs do on inputs generated from the visible ones; no right outputs are involved.

    Sends back ``list[tuple[str, ...]]``: of each program one outcome an input, equal where the programs did the
    same. Empty where nothing may be executed (``feedback=none``) or the task shows no input that can be read.
    """

    programs: tuple[str, ...]


Effect = Generate | Check | Execute


@dataclass(frozen=True, slots=True)
class OptimizedPrompt:
    """The prompt that produced a submission and how it came about."""

    text: str
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program that a strategy had looked at on its way.

    Attributes:
        program: The program, sanitized.
        generations: LLM generations spent on the task until then.
        visible: Fraction of the shown tests that it passes, None where nothing is shown.
        failure: Why the first failing one of them failed; None when all passed, or nothing is shown.
        outcomes: Digest of what it did on generated inputs (see `Execute`), ``""`` where there were none; None
            where it was not executed on them.
    """

    program: str
    generations: int
    visible: float | None = None
    failure: FailureKind | None = None
    outcomes: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one action did to the prompt, and the program that came of it.

    Of a repair it keeps that there is one, not what went wrong: at ``feedback=oracle`` that quotes a hidden test.

    Attributes:
        generations: LLM generations spent on the task until then.
        text: The task's own text, as edited so far.
        examples: Ids of the solved train tasks that are shown before it.
        repair: Whether the prompt shows a failed program to be mended.
        candidate: Position of the program in `Sample.candidates`, None where the action made none (stop, revert).
    """

    generations: int
    text: str
    examples: tuple[str, ...] = ()
    repair: bool = False
    candidate: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A strategy's one submission for one task.

    Attributes:
        task_id: Id of the task.
        solution: The program, sanitized by EvalPlus's sanitizer.
        raw_solution: The same before sanitizing.
        generations: LLM generations spent, every call counted.
        prompt_tokens / completion_tokens: Tokens read and written by those generations.
        visible_status: Status of the submission on the visible tests, None where not looked at.
        prompt: The prompt behind the submission.
        actions: Names of the actions taken, in order, where the strategy has actions.
        candidates: Every program that was looked at, in order.
        steps: What each of `actions` did, in the same order.
    """

    task_id: str
    solution: str
    raw_solution: str
    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    visible_status: Status | None = None
    prompt: OptimizedPrompt = field(default_factory=lambda: OptimizedPrompt(""))
    actions: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    steps: tuple[Step, ...] = ()
