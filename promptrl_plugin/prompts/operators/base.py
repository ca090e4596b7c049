"""What an operator is, and what it may see."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from promptrl_plugin.prompts.state import Example, PromptState
from promptrl_plugin.records import Completion, Decoding, Generate, GroupVerdict, Task

__all__ = ["Attempt", "DecodingOf", "Edit", "EpisodeView", "Operator", "edited", "greedy_tried"]

DecodingOf = Callable[[str], Decoding]
"""Decoding by its kind: ``"greedy"``, ``"warm"``, ``"hot"`` (programs) or ``"rewrite"``."""

Edit = Generator[Generate, list[Completion], PromptState]
"""An edit at work: yields requests to the rewriter, is sent the completions, returns the new state."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One program of the episode and what was seen of it.

    Attributes:
        state: The prompt that it came from.
        program: Sanitized source, as it would be submitted.
        raw_program: Source before sanitizing.
        verdict: Outcome of the tests that feedback shows; None where it shows none.
        decoding: How it was decoded.
        outcomes: What the program did on generated inputs (see `records.Execute`); None where that was not
            asked, or counts already for an earlier attempt.
    """

    state: PromptState
    program: str
    raw_program: str
    verdict: GroupVerdict | None
    decoding: Decoding
    outcomes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """What operators may see of an episode; nothing hidden.

    Attributes:
        task: The task as its solver sees it.
        state: The current prompt.
        best_state: The prompt of the best attempt so far.
        population: Distinct prompts of the episode, oldest first; the original is the first.
        last: The latest attempt.
        best: The attempt that would be submitted now.
        budget_left: Generations that may still be spent.
        chat: Whether the backbone takes the chat form.
        fixed_examples: The solved train tasks that are shown for every task.
        nearest_examples: The solved train tasks nearest to this one.
        other_examples: Further sets of examples, the same for every task.
        tried: Deterministic generations made so far, each ``f"{state.key}:{decoding}"``.
        rewriter_chat: Whether the rewriter takes the chat form.
        completes: Whether a backbone that takes the chat form takes the plain one, too.
        moved: Whether the last step only went to another prompt; doing so twice is never of use.
    """

    task: Task
    state: PromptState
    best_state: PromptState
    population: tuple[PromptState, ...]
    last: Attempt | None
    best: Attempt | None
    budget_left: int
    chat: bool
    fixed_examples: tuple[Example, ...]
    nearest_examples: tuple[Example, ...]
    other_examples: tuple[tuple[Example, ...], ...]
    tried: frozenset[str]
    rewriter_chat: bool
    completes: bool = False
    moved: bool = False


@runtime_checkable
class Operator(Protocol):
    """One edit of the prompt, with its strength; an action of the agent.

    Attributes:
        name: Unique; part of the action table's digest.
        kind: ``"direct"``, ``"lexical"`` or ``"semantic"``.
        version: Raised when the same input gives another edit; part of the digest.
        generations: LLM generations that one application spends at most, code generation included.
        generates: Whether a code generation follows the edit.
        decoding: Of that generation: ``"greedy"``, ``"warm"`` or ``"hot"``.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def generations(self) -> int: ...
    @property
    def generates(self) -> bool: ...
    @property
    def decoding(self) -> str: ...

    def available(self, view: EpisodeView) -> bool:
        """Whether the edit makes sense now (apart from the budget, which the action table checks)."""
        ...

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        """Edit `view.state`. All randomness comes from `rng`.

        Never fails: an edit that comes to nothing (a rewrite that is not valid) returns a sensible
        state, at worst the current one.
        """
        ...


def edited(view: EpisodeView, name: str, **changes: Any) -> PromptState:
    """The current state with `changes`, and `name` added to its lineage.

    A repair belongs to the prompt that it failed under, so every edit leaves it out unless it sets one.
    """
    changes.setdefault("repair", None)
    return replace(view.state, operators=(*view.state.operators, name), **changes)


def greedy_tried(view: EpisodeView, state: PromptState) -> bool:
    """Whether the greedy generation from `state` has been made; making it again gives the same program."""
    return f"{state.key}:greedy" in view.tried
