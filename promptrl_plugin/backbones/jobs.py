"""Completions to be made, and those that are being made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from promptrl_plugin.backbones.drafts import Text
from promptrl_plugin.backbones.stopping import Ending, StopRule
from promptrl_plugin.records import Decoding

__all__ = ["Engine", "Job", "OnFinish", "Queue", "Row", "Tokens"]

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One completion to be made.

    Attributes:
        tokens: The prompt.
        decoding: Temperature and top-p; its `max_new_tokens` is already cut to the model's context.
        stop: When it ends.
        draws: A random number for each token, empty when greedy.
    """

    tokens: Tokens
    decoding: Decoding
    stop: StopRule
    draws: npt.NDArray[np.float64]


class Queue:
    """Jobs that wait, by the call that they came with.

    The call with the fewest left is served first: who asks for little waits for all of it before it can ask again,
    and would otherwise wait behind everything that others asked for at once. Within a call jobs are in token order,
    so that neighbours share most of their prompts.
    """

    def __init__(self) -> None:
        self._calls: list[deque[Job]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __iter__(self) -> Iterator[Job]:
        return (job for call in self._calls for job in call)

    def add(self, jobs: Sequence[Job]) -> None:
        """Take in the jobs of one call."""
        if jobs:
            self._calls.append(deque(sorted(jobs, key=lambda j: j.tokens.tolist())))
            self._calls.sort(key=len)

    def first(self) -> Job:
        """What `pop` takes."""
        return self._calls[0][0]

    def pop(self) -> Job:
        """Take out the next job. No other call has fewer left then, so the order of calls stays."""
        job = self._calls[0].popleft()
        if not self._calls[0]:
            del self._calls[0]
        return job


OnFinish = Callable[[Job, Ending, int], None]
"""Called as each job ends, with its ending and the number of tokens generated."""


class Engine(Protocol):
    """Runs jobs to their end, in an order of its own."""

    def run(self, jobs: Sequence[Job], on_finish: OnFinish) -> None: ...


@dataclass(slots=True)
class Row:
    """A running job.

    Attributes:
        job: What it writes.
        length: Positions that are in its slot; `tokens[-1]` is still to be fed, and `draft` with it.
        tokens: What it wrote so far.
        text: Its prompt and `tokens`, for the drafts.
        order: Tokens by which `draft` was found, see `DraftBook.draft`.
        draft: What may come after `tokens`.
    """

    job: Job
    length: int
    tokens: list[int] = field(default_factory=list)
    text: Text = field(default_factory=lambda: Text([]))
    order: int = 0
    draft: list[int] = field(default_factory=list)

    def room(self) -> int:
        """Tokens that may be drafted, so that another one can still be chosen after them."""
        return self.job.decoding.max_new_tokens - len(self.tokens) - 1

    def draw(self, ahead: int) -> float:
        """The random number of the token that comes after `ahead` others."""
        return float(self.job.draws[len(self.tokens) + ahead]) if len(self.job.draws) else 0.0

    def add(self, token: int) -> Ending | None:
        """Take the next token; tells whether that is the end."""
        self.tokens.append(token)
        self.text.tokens.append(token)
        return self.job.stop.check(self.tokens, self.job.decoding.max_new_tokens)

    def take(self, chosen: Sequence[int]) -> tuple[int, Ending | None]:
        """Take what the model chose after the last token, and after each token of the draft that it chose, too.

        Returns:
            How many tokens of the draft it chose, and whether that is the end.
        """
        right, ending = 0, self.add(chosen[0])
        while ending is None and right < len(self.draft) and self.draft[right] == chosen[right]:
            right += 1
            ending = self.add(chosen[right])
        self.length += 1 + right
        return right, ending
