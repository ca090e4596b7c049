"""Lexical (genetic) operators: small edits of the wording, and crossover within the episode's population.

Sources: synonyms as in EPiC (arXiv 2408.11198, there p = 0.25 a word); deletion and swap as in EDA
(arXiv 1901.11196); crossover of prompts as in EvoPrompt (arXiv 2309.08532). Each comes *light* and
*strong*; its numbers are part of its definition and of the action table's version. The program is sampled:
decoded greedily, a small model hardly ever changes its program for such an edit (benchmarks/RESEARCH.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from promptrl_plugin.prompts.operators import edits
from promptrl_plugin.prompts.operators.base import DecodingOf, Edit, EpisodeView, Operator, edited
from promptrl_plugin.prompts.state import PromptState
from promptrl_plugin.prompts.task_text import protected_names
from promptrl_plugin.prompts.tokens import protected_tokens
from promptrl_plugin.prompts.vocabulary import FILLERS, FUNCTION_WORDS

__all__ = ["Crossover", "Reword", "Shuffle", "operators"]

Names = frozenset[str]

_DRAWS = 8


def operators() -> tuple[Operator, ...]:
    """The lexical operators, in the order of the default action table."""
    return (
        Reword("synonym_light", edits.replaceable, lambda p, n, r: edits.substitute(p, n, 0.15, r)),
        Reword("synonym_strong", edits.replaceable, lambda p, n, r: edits.substitute(p, n, 0.4, r)),
        _deletion("deletion_light", FILLERS, 0.4),
        _deletion("deletion_strong", FUNCTION_WORDS, 0.7),
        Reword("swap_light", edits.swappable, lambda p, n, r: edits.swap(p, n, 1, r)),
        Reword("swap_strong", edits.swappable, lambda p, n, r: edits.swap(p, n, 3, r)),
        Shuffle("shuffle_light", whole=False),
        Shuffle("shuffle_strong", whole=True),
        Crossover("crossover_light", whole=False),
        Crossover("crossover_strong", whole=True),
    )


@dataclass(frozen=True, slots=True)
class Reword:
    """Edit the words of every prose segment in which there is something to edit.

    Attributes:
        places: Where a segment can be edited; empty where it cannot.
        change: The edit of one segment.
    """

    name: str
    places: Callable[[str, Names], tuple[object, ...]]
    change: Callable[[str, Names, np.random.Generator], str]
    kind: str = "lexical"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "hot"

    def available(self, view: EpisodeView) -> bool:
        names = _names(view)
        return any(self.places(prose, names) for prose in view.state.prose)

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        names = _names(view)
        prose = tuple(self._changed(p, names, rng) if self.places(p, names) else p for p in view.state.prose)
        return _immediately(edited(view, self.name, prose=prose))

    def _changed(self, prose: str, names: Names, rng: np.random.Generator) -> str:
        """The edit, drawn again where a new context would change what is protected (*a* as word or variable)."""
        facts = protected_tokens(prose, names)
        for _ in range(_DRAWS):
            changed = self.change(prose, names, rng)
            if protected_tokens(changed, names) == facts:
                return changed
        return prose


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Reorder the sentences of a paragraph, or the notes; `whole`: all of them, else one pair."""

    name: str
    whole: bool
    kind: str = "lexical"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "hot"

    def available(self, view: EpisodeView) -> bool:
        return len(view.state.notes) > 1 or any(len(edits.sentences(p)[0]) > 1 for p in view.state.prose)

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        state = view.state
        parts = [i for i, p in enumerate(state.prose) if len(edits.sentences(p)[0]) > 1]
        if len(state.notes) > 1:
            parts.append(-1)
        chosen = parts if self.whole else [parts[int(rng.integers(len(parts)))]] if parts else []
        prose, notes = list(state.prose), state.notes
        for i in chosen:
            if i < 0:
                notes = edits.shuffle(notes, self.whole, rng)
            else:
                prose[i] = _reordered(prose[i], self.whole, rng)
        return _immediately(edited(view, self.name, prose=tuple(prose), notes=notes))


@dataclass(frozen=True, slots=True)
class Crossover:
    """Cross the current prompt with another of the episode's population.

    The genes are prose, notes and examples. *Light* takes one gene in which the two differ from the
    other parent, *strong* (`whole`) each such gene with probability ½ (at least one); prose is crossed
    at one point.
    """

    name: str
    whole: bool
    kind: str = "lexical"
    version: int = 1
    generations: int = 1
    generates: bool = True
    decoding: str = "hot"

    def available(self, view: EpisodeView) -> bool:
        return bool(_partners(view))

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        partners = _partners(view)
        if not partners:
            return _immediately(view.state)
        partner = partners[int(rng.integers(len(partners)))]
        genes = _differing(view.state, partner)
        one = genes[int(rng.integers(len(genes)))]
        taken = {one} | ({g for g in genes if rng.random() < 0.5} if self.whole else set())
        changes: dict[str, object] = {gene: getattr(partner, gene) for gene in taken}
        if "prose" in taken:
            pairs = zip(view.state.prose, partner.prose, strict=True)
            changes["prose"] = tuple(a if a == b else edits.cross(a, b, _names(view), rng) for a, b in pairs)
        return _immediately(edited(view, self.name, **changes))


def _deletion(name: str, words: frozenset[str], rate: float) -> Reword:
    return Reword(
        name,
        lambda prose, names: edits.deletable(prose, names, words),
        lambda prose, names, rng: edits.delete(prose, names, words, rate, rng),
    )


def _reordered(prose: str, whole: bool, rng: np.random.Generator) -> str:
    """A paragraph with its sentences in another order; the white space between them stays."""
    units, gaps = edits.sentences(prose)
    shuffled = edits.shuffle(units, whole, rng)
    return "".join(unit + gap for unit, gap in zip(shuffled, (*gaps, ""), strict=True))


def _names(view: EpisodeView) -> Names:
    return protected_names(view.task.prompt, view.task.entry_point)


def _partners(view: EpisodeView) -> list[PromptState]:
    """Prompts of the population that differ from the current one in a gene."""
    return [other for other in view.population if _differing(view.state, other)]


def _differing(state: PromptState, other: PromptState) -> list[str]:
    return [gene for gene in ("prose", "notes", "examples") if getattr(state, gene) != getattr(other, gene)]


def _immediately(state: PromptState) -> Edit:
    """An edit that needs no rewriter."""
    return state
    yield  # makes this a generator
