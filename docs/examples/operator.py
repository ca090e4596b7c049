"""Operator `no_imports`: a note that the program must do without imports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from promptrl_plugin.prompts.operators.base import DecodingOf, Edit, EpisodeView, edited, greedy_tried
from promptrl_plugin.prompts.state import PromptState

_NOTE = "Use nothing but Python's built-in functions; import nothing."


@dataclass(frozen=True, slots=True)
class NoImports:
    """A `promptrl_plugin.prompts.operators.base.Operator`."""

    name: str = "no_imports"
    kind: str = "semantic"
    version: int = 1  # raise it when the same prompt gets another edit: policies of the old one are then refused
    generations: int = 1  # the program; an edit that asks the rewriter once has 2
    generates: bool = True
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        return _NOTE not in view.state.notes and not greedy_tried(view, self._noted(view))

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return self._noted(view)
        yield  # an edit is a generator; one that asks yields Generate(requests, rewriter=True), is sent completions

    def _noted(self, view: EpisodeView) -> PromptState:
        return edited(view, self.name, notes=(*view.state.notes, _NOTE))
