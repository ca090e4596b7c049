"""Direct operators: generate code from the current prompt, go back to the best prompt or the task's own, stop.

Greedy decoding makes an attempt a cacheable function of the prompt, sampling is best-of-k's move, going back
keeps a bad edit from compounding, and stopping saves budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from promptrl_plugin.prompts.operators.base import DecodingOf, Edit, EpisodeView, greedy_tried
from promptrl_plugin.prompts.state import PromptState

__all__ = ["GenerateCode", "GoBack", "Stop"]


@dataclass(frozen=True, slots=True)
class GenerateCode:
    """Generate code from the current prompt; greedy only once for each prompt (it would repeat itself).

    With `completion`, a chat model is not asked by chat but goes on from the plain form of the prompt, this once:
    instruction tuning leaves what it learned before that within reach, and the programs err on other tasks.
    """

    name: str
    decoding: str
    completion: bool = False
    kind: str = "direct"
    version: int = 1
    generations: int = 1
    generates: bool = True

    def available(self, view: EpisodeView) -> bool:
        if self.completion and not (view.chat and view.completes):
            return False
        return self.decoding != "greedy" or not greedy_tried(view, self._asked(view))

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return _keep(self._asked(view))

    def _asked(self, view: EpisodeView) -> PromptState:
        return replace(view.state, completion=self.completion)


@dataclass(frozen=True, slots=True)
class GoBack:
    """Go back to an earlier prompt, without a generation: what comes next is not added to the edits since.

    *Revert* goes to the prompt of the best attempt so far, *reset* to the task's own.
    """

    name: str
    to: Callable[[EpisodeView], PromptState]
    kind: str = "direct"
    version: int = 1
    generations: int = 0
    generates: bool = False
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        return view.last is not None and not view.moved and self.to(view).key != view.state.key

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return _keep(self.to(view))


@dataclass(frozen=True, slots=True)
class Stop:
    """End the episode and submit the best attempt; there must be one."""

    name: str = "stop"
    kind: str = "direct"
    version: int = 1
    generations: int = 0
    generates: bool = False
    decoding: str = "greedy"

    def available(self, view: EpisodeView) -> bool:
        return view.last is not None

    def edit(self, view: EpisodeView, rng: np.random.Generator, decoding_of: DecodingOf) -> Edit:
        return _keep(view.state)


def _keep(state: PromptState) -> Edit:
    """An edit that asks for nothing."""
    return state
    yield  # makes this a generator
