"""Speculative decoding by lookup: drafts of the next tokens, found in what was written before.

A pass over few sequences takes as long as reading the weights does, so some more tokens in it cost little. What
follows the last tokens of a sequence where they stood before, in its own prompt and text or in completions that
ended, is fed along with them (Saxena 2023, "Prompt Lookup Decoding"; Leviathan, Kalman and Matias 2023, arXiv
2211.17192): where the model chooses the same, those passes are spared, where it does not, the draft is dropped.
Programs of one task resemble each other, and a completion that turns in circles is drafted at full length. The
draws of a sampled completion are known beforehand (`sampling.uniforms`), so its tokens can be compared as greedy
ones are: what is written changes no more than by the other contents of a batch, so by rounding alone.

A pass over many sequences takes as long as its tokens do, so drafts spare no time there; but whoever waits for a batch
waits for its longest completions, so those are drafted all the same: they end sooner, at the price of the drafts that
are dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["DraftBook", "Text"]

ORDERS = (6, 3)
"""Numbers of last tokens that are looked up, the longest first; fewer match by chance."""

_DEEPEST = 8
"""Places of a draft whose hits are counted apart; what lies deeper counts as the last."""

_STRAGGLERS = 4
"""Sequences that are drafted beside more than `slack` others, the longest; every draft attends in a call of its own."""

_LONG = 128
"""Tokens that a sequence has written when it counts as one of those."""

_LIKELY = 0.3
"""How likely all of a draft must be there."""

_PRIOR = (4.0, 8.0)
"""Hits and trials that every place begins with."""

_MULTIPLIER = 0x9E3779B97F4A7C15
"""Of the multiplicative hash (Knuth 1998, "The Art of Computer Programming" 3, 6.4)."""

_GAP = -1
"""Stands between two completions; no token."""


@dataclass(slots=True)
class Text:
    """One running sequence and where its own runs of tokens stood last.

    Attributes:
        tokens: Prompt and what was generated so far.
        prompt: How many of them are the prompt's.
    """

    tokens: list[int]
    prompt: int = 0
    _seen: dict[tuple[int, ...], int] = field(default_factory=dict)
    _noted: int = 0

    @property
    def written(self) -> int:
        return len(self.tokens) - self.prompt

    def find(self, key: tuple[int, ...]) -> int | None:
        """The position after the latest earlier occurrence of `key`, its last tokens."""
        tokens = self.tokens
        for end in range(self._noted, len(tokens)):  # those that end at the last token wait for the next one
            for order in ORDERS:
                if end >= order:
                    self._seen[tuple(tokens[end - order : end])] = end
        self._noted = len(tokens)
        return self._seen.get(key)


class DraftBook:
    """Remembers what was written, and drafts what comes next.

    Args:
        slack: Tokens that a pass computes in the time in which it reads the weights: with ``n`` of them it takes
            as long as ``slack + n`` would without. A draft grows as long as the expected tokens a unit of time do.
            Of more sequences than `slack` only a few are drafted, those that have run longest; 0 drafts none at all.
        capacity: Tokens of ended completions that are remembered, a power of two; the oldest are overwritten.
    """

    def __init__(self, slack: int, capacity: int = 1 << 20) -> None:
        self.slack = slack
        self._history = np.full(capacity, _GAP, dtype=np.int32)
        self._at = 0
        self._where = {order: np.zeros(capacity, dtype=np.int32) for order in ORDERS}
        self._hits = {order: [list(_PRIOR) for _ in range(_DEEPEST)] for order in ORDERS}

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in a completion that ended."""
        if not self.slack:
            return
        capacity = len(self._history)
        if self._at + len(tokens) + 1 > capacity:
            self._at = 0
        start = self._at
        self._history[start : start + len(tokens)] = tokens
        self._at = start + len(tokens)
        self._history[self._at] = _GAP
        for order in ORDERS:
            for end in range(order, len(tokens)):
                self._where[order][self._slot(tokens[end - order : end])] = start + end
        self._at += 1

    def draft(self, texts: Sequence[Text], rooms: Sequence[int]) -> list[tuple[int, list[int]]]:
        """What to feed along with the last token of each sequence.

        Args:
            texts: The running sequences.
            rooms: Tokens that each may be drafted ahead.

        Returns:
            For each the order that was found (0 for none) and the draft, which may be empty.
        """
        if not texts or not self.slack:
            return [(0, [])] * len(texts)
        crowded = len(texts) > self.slack
        asked = _stragglers(texts) if crowded else range(len(texts))
        found: list[tuple[int, list[int]]] = [(0, [])] * len(texts)
        for i in asked:
            found[i] = self._look_up(texts[i], rooms[i])
        counts = [self._likely(*f) for f in found] if crowded else self._paying(found)
        return [(order, draft[:n]) for (order, draft), n in zip(found, counts, strict=True)]

    def _paying(self, found: Sequence[tuple[int, list[int]]]) -> list[int]:
        """How many tokens of each draft raise the expected tokens a unit of time."""
        counts = [0] * len(found)
        expected, cost = float(len(found)), float(self.slack + len(found))
        waiting = [(-self._chance(order, 0), i) for i, (order, draft) in enumerate(found) if draft]
        heapq.heapify(waiting)
        while waiting and -waiting[0][0] * cost > expected:
            chance, i = -waiting[0][0], waiting[0][1]
            expected, cost = expected + chance, cost + 1.0
            counts[i] += 1
            order, draft = found[i]
            if counts[i] < len(draft):
                heapq.heapreplace(waiting, (-chance * self._chance(order, counts[i]), i))
            else:
                heapq.heappop(waiting)
        return counts

    def _likely(self, order: int, draft: Sequence[int]) -> int:
        """How many tokens of a draft are likely to be chosen, all of them."""
        chance, count = 1.0, 0
        while count < len(draft) and (chance := chance * self._chance(order, count)) >= _LIKELY:
            count += 1
        return count

    def learn(self, order: int, drafted: int, right: int) -> None:
        """Tell how many of the tokens of a draft, from its first on, were chosen."""
        for depth in range(min(right + 1, drafted)):
            tally = self._hits[order][min(depth, _DEEPEST - 1)]
            tally[0] += depth < right
            tally[1] += 1

    def _chance(self, order: int, depth: int) -> float:
        """How often the token at `depth` was chosen where all before it were."""
        hits, trials = self._hits[order][min(depth, _DEEPEST - 1)]
        return hits / trials

    def _look_up(self, text: Text, room: int) -> tuple[int, list[int]]:
        if room < 1:
            return 0, []
        most = min(room, self.slack + 1)
        for order in ORDERS:
            if len(text.tokens) < order:
                continue
            key = tuple(text.tokens[-order:])
            at = text.find(key)
            if at is not None:
                period = len(text.tokens) - at
                return order, [text.tokens[at + i % period] for i in range(most)]
            draft = self._from_history(order, key, most)
            if draft:
                return order, draft
        return 0, []

    def _from_history(self, order: int, key: tuple[int, ...], most: int) -> list[int]:
        at = int(self._where[order][self._slot(key)])
        if at < order or tuple(self._history[at - order : at].tolist()) != key:
            return []
        after: list[int] = self._history[at : at + most].tolist()
        return after[: after.index(_GAP)] if _GAP in after else after

    def _slot(self, key: Sequence[int]) -> int:
        mixed = 0
        for token in key:
            mixed = ((mixed ^ token) * _MULTIPLIER) & 0xFFFFFFFFFFFFFFFF
        return mixed >> (64 - (len(self._history).bit_length() - 1))


def _stragglers(texts: Sequence[Text]) -> list[int]:
    """Which sequences have run longest, and long."""
    longest = heapq.nlargest(_STRAGGLERS, range(len(texts)), key=lambda i: texts[i].written)
    return [i for i in longest if texts[i].written >= _LONG]
