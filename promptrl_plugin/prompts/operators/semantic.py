"""Semantic operators: rewrites by an LLM, notes, solved examples, repair.

Each docstring names its source; `promptrl_plugin.prompts.operators` has the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from promptrl_plugin.prompts.contract import contract_note, edge_case_note
from promptrl_plugin.prompts.failure import failure_note
from promptrl_plugin.prompts.operators.base import (
    Attempt,
    DecodingOf,
    Edit,
    EpisodeView,
    Operator,
    edited,
    greedy_tried,
)
from promptrl_plugin.prompts.operators.rewrite_rules import (
    Rewriting,
    clarifying,
    cleaned,
    main_segment,
    objection,
    request,
    simplifying,
)
from promptrl_plugin.prompts.state import Example, PromptState, Repair
from promptrl_plugin.prompts.task_text import fill
from promptrl_plugin.records import Generate, GenerationRequest, Status

__all__ = ["AddNote", "ReflectRepair", "Rewrite", "ShowExamples", "operators"]

_PLAN_FIRST = "First write the steps of the solution as short comments in the function, then the code of each step."
_MAX_PROGRAM_LINES = 60


def operators() -> tuple[Operator, ...]:
    """The semantic operators, in the order of the default action table."""
    return (
        Rewrite("clarify", clarifying),
        Rewrite("simplify", simplifying),
        AddNote("plan_first", lambda view: _PLAN_FIRST),
        AddNote("edge_cases", lambda view: edge_case_note(view.task)),
        AddNote("contract", lambda view: contract_note(view.task)),
        ShowExamples("fixed_examples", lambda view: (view.fixed_examples,)),
        ShowExamples("nearest_examples", lambda view: (view.nearest_examples,)),
        ShowExamples("other_examples", lambda view: view.other_examples),
        ReflectRepair(),
        AddNote("failure_note", _noted_failure, decoding="hot"),
    )


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Have the rewriter say the description anew (arXiv 2605.19102), decoded greedily.

    An answer that breaks the rules of `rewrite_rules` is dropped. *Clarify* then names the function in
    the original's words where their form allows it; otherwise the prompt stays as it is.
    """

    name: str
    rewriting: Rewriting
    kind: str = "semantic"
    version: int = 1
    generations: int = 2
    generates: bool = True
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        """Once in a lineage: a greedy rewrite of the same prompt is the same rewrite."""
        lineage = (*view.state.operators, self.name)
        known = any(state.operators == lineage for state in view.population)
        return bool(view.state.prose) and self.name not in view.state.operators and not known

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        prompt = request(self.rewriting, view.task, view.state)
        completions = yield Generate((GenerationRequest(prompt, decoding_of("rewrite")),), rewriter=True)
        at = main_segment(view.state)
        original = view.state.prose[at]
        sentence = cleaned(self.rewriting, view.task, completions[0].text)
        finished = completions[0].finish_reason == "stop"
        if objection(self.rewriting, view.task, original, sentence, finished):
            names = self.rewriting.names_function and view.task.entry_point
            sentence = _named(original, view.task.entry_point) if names else original
        prose = (*view.state.prose[:at], fill(original, sentence), *view.state.prose[at + 1 :])
        return edited(view, self.name, prose=prose if sentence != original else view.state.prose)


@dataclass(frozen=True, slots=True)
class AddNote:
    """Add one deterministic note to the description.

    * *plan first* follows self-planning (arXiv 2303.06689), with the plan as comments of the program,
      since the completion is all code;
    * *edge cases* names those of the visible arguments' types;
    * *contract* restates arguments and result from signature and visible tests;
    * *failure note* says what the last failure shows and a prompt can mend (`failure.failure_note`). The failed
      program is not shown: small models hand it back.

    Attributes:
        note: What to add; None where there is nothing to say.
    """

    name: str
    note: Callable[[EpisodeView], str | None]
    kind: str = "semantic"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        state = self._noted(view)
        return state is not None and not (self.decoding == "greedy" and greedy_tried(view, state))

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return _immediately(self._noted(view) or view.state)

    def _noted(self, view: EpisodeView) -> PromptState | None:
        note = self.note(view)
        if note is None or note in view.state.notes:
            return None
        return edited(view, self.name, notes=(*view.state.notes, note))


@dataclass(frozen=True, slots=True)
class ShowExamples:
    """Show solved train tasks before the task, in place of those shown so far.

    *Fixed* examples are few-shot prompting (arXiv 2005.14165), *nearest* ones in-context retrieval
    (arXiv 2101.06804); the nearest stands last, next to the task. *Other* ones are further fixed examples,
    at every use others: prompts with different demonstrations fail on different tasks (demonstration
    ensembling, arXiv 2308.08780), and as they are the same for every task, their greedy programs are cached
    and the backbone computes each set once.

    Attributes:
        choices: The sets of examples; the first that has not been tried with this prompt is shown.
    """

    name: str
    choices: Callable[[EpisodeView], Sequence[tuple[Example, ...]]]
    kind: str = "semantic"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        return self._shown(view) is not None

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return _immediately(self._shown(view) or view.state)

    def _shown(self, view: EpisodeView) -> PromptState | None:
        states = (edited(view, self.name, examples=e) for e in self.choices(view) if e and e != view.state.examples)
        return next((state for state in states if not greedy_tried(view, state)), None)


@dataclass(frozen=True, slots=True)
class ReflectRepair:
    """Show the failed program with the visible test's outcome and ask for a right one (arXiv 2304.05128).

    Sampled: greedily, small models hand the failed program back. Masked without a verdict, after a pass, and when
    the last repair changed nothing.
    """

    name: str = "reflect_repair"
    kind: str = "semantic"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "hot"

    def available(self, view: EpisodeView) -> bool:
        attempt = _failed(view)
        if attempt is None or not attempt.program.strip():
            return False
        before = attempt.state.repair
        return before is None or before.program != _shortened(attempt.program)

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        attempt = _failed(view)
        if attempt is None or attempt.verdict is None:
            return _immediately(view.state)
        repair = Repair(_shortened(attempt.program), attempt.verdict.detail)
        return _immediately(edited(view, self.name, repair=repair))


def _noted_failure(view: EpisodeView) -> str | None:
    attempt = _failed(view)
    return failure_note(view.task, attempt.verdict) if attempt and attempt.verdict else None


def _failed(view: EpisodeView) -> Attempt | None:
    """The failed attempt to mend: the one of the current prompt if it is at hand, else the last."""
    attempts = [a for a in (view.last, view.best) if a is not None]
    attempts.sort(key=lambda a: a.state.key != view.state.key)
    for attempt in attempts:
        if attempt.verdict is not None and attempt.verdict.status is not Status.PASS:
            return attempt
    return None


def _shortened(program: str) -> str:
    lines = program.strip().splitlines()
    return "\n".join(lines[:_MAX_PROGRAM_LINES])


def _named(description: str, entry_point: str) -> str:
    """``"Write a function to …"`` as ``"Write a Python function named `f` to …"``; else unchanged."""
    pattern = r"\b(Write|Create|Implement|Define) a (?:[Pp]ython )?function\b(?! named)"
    return re.sub(pattern, rf"\1 a Python function named `{entry_point}`", description, count=1)


def _immediately(state: PromptState) -> Edit:
    """An edit that needs no rewriter."""
    return state
    yield  # makes this a generator
