"""The decode loop of causal models: packed passes over slots that refill.

Each pass carries the next token of every running sequence and, in the same matrix, the prompts that take
the place of those that finished. What a prompt shares with a sequence whose keys and values are still in a
slot (a running one, one that ended, one of an earlier call, or a neighbour in the same pass) is copied and
not computed: the system prompt, the instruction and few-shot examples are read once, and so are all but the
last token of a prompt that is sampled several times. While few sequences run, drafts of their next tokens
fill the pass, and the longest are drafted always (speculative decoding, `drafts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from promptrl_plugin.backbones import kv_cache
from promptrl_plugin.backbones.drafts import DraftBook, Text
from promptrl_plugin.backbones.jobs import Job, OnFinish, Queue, Row, Tokens
from promptrl_plugin.backbones.sampling import choose
from promptrl_plugin.backbones.stopping import StopRule
from promptrl_plugin.records import Decoding

__all__ = ["PackedEngine"]

_PROBE_TOLERANCE = 0.1
"""Relative error that rounding (bfloat16, int8) stays below, and another attention does not."""

_GENEROUS = 2048
"""Positions that a slot has where memory allows: a prompt with examples, and EvalPlus's 768 new tokens."""

_SORT_EVERY = 32
"""Passes between two sortings of the running sequences by length, which costs some copying."""

_UNLIKE = 32
"""Positions by which two sequences must differ for their order to matter."""


@dataclass(slots=True)
class _Slot:
    """What a slot holds: keys and values of `tokens`, of which `resident` were there before this pass."""

    tokens: Tokens
    resident: int = 0
    used: int = 0


class PackedEngine:
    """Continuous batching for one causal model of transformers.

    Args:
        model: The model; its attention implementation is switched to ours.
        rows: Sequences that run at once.
        pass_tokens: Prompt tokens that join in one pass, at least one prompt.
        cache_bytes: Memory for keys and values; fewer rows run where it is short.
        slack: See `DraftBook`; 0 drafts nothing.
    """

    def __init__(self, model: Any, rows: int, pass_tokens: int, cache_bytes: int, slack: int = 0) -> None:
        self._model, self._max_rows = model, rows
        self._book = DraftBook(slack)
        self._pass_tokens, self._cache_bytes = pass_tokens, cache_bytes
        self._cache: kv_cache.PackedCache | None = None
        self._slots: list[_Slot] = []
        self._rows: list[Row] = []
        self._clock = self._passes = 0
        self._cache_argument = kv_cache.cache_argument(model)
        kv_cache.register()
        model.set_attn_implementation(kv_cache.ATTENTION)

    @classmethod
    def serves(cls, model: Any) -> bool:
        """Whether packed passes give this model's own logits: tried on two short sequences.

        Architectures with another attention (ALiBi, sinks, linear layers) are told from the rest by what they
        compute, not by a list of names. The model comes back as it was.
        """
        generator = np.random.default_rng(0)
        prompts = [generator.integers(3, model.config.get_text_config().vocab_size, n) for n in (9, 14)]
        prompts.append(np.concatenate([prompts[0][:5], prompts[1][:3]]))
        before = model.config._attn_implementation
        try:
            with torch.inference_mode():
                wanted = [
                    model(input_ids=torch.from_numpy(p).to(model.device)[None]).logits[0, -2:].float() for p in prompts
                ]
                got = cls._probe(model, prompts)
                return all(
                    bool((g - w).norm() <= _PROBE_TOLERANCE * w.norm()) for g, w in zip(got, wanted, strict=True)
                )
        except Exception:  # whatever such a model raises, it means no
            return False
        finally:
            model.set_attn_implementation(before)

    @classmethod
    def _probe(cls, model: Any, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        """Logits of the last two positions of each prompt: one pass of prompts, one of single tokens."""
        engine = cls(model, len(prompts), 1 << 30, 1 << 40)
        engine._reserve(max(map(len, prompts)))
        decoding = Decoding(max_new_tokens=1)
        jobs = [Job(p[:-1], decoding, StopRule(None, frozenset(), ()), np.empty(0)) for p in prompts]
        waiting = Queue()
        for job in jobs:
            waiting.add([job])  # each its own call, so that they come in this order
        segments, copies = engine._admit(waiting)
        first = engine._forward(0, segments, copies)
        for row, prompt in zip(engine._rows, prompts, strict=True):
            row.length, row.tokens = len(prompt) - 1, [int(prompt[-1])]
        second = engine._forward(len(prompts), (), ())
        return list(torch.stack([first, second], dim=1).float())

    def run(self, jobs: Sequence[Job], on_finish: OnFinish) -> None:
        """Run all jobs; neighbours in token order come next to each other, so that they share most."""
        coming = [list(jobs)]
        self.stream(lambda _idle: coming.pop() if coming else (), on_finish)

    def stream(self, more: Callable[[bool], Sequence[Job]], on_finish: OnFinish) -> None:
        """Run jobs as they come.

        Args:
            more: Called before every pass for new jobs, with whether there is nothing to do otherwise; if it
                has none then, that is the end.
            on_finish: Called as each job ends.
        """
        waiting = Queue()
        try:
            with torch.inference_mode():
                while True:
                    idle = not waiting and not self._rows
                    waiting.add(more(idle))
                    if idle and not waiting:
                        return
                    if not self._rows:
                        self._reserve(max(map(_room, waiting)))
                    self._advance(waiting, on_finish)
        except BaseException:
            self.reset()
            raise

    def reset(self) -> None:
        """Forget all sequences and free their memory."""
        self._rows, self._slots, self._cache = [], [], None

    def _advance(self, waiting: Queue, on_finish: OnFinish) -> None:
        """One pass: admit, forward, choose, and let go what has ended."""
        self._passes += 1
        if self._passes % _SORT_EVERY == 0:
            self._sort()
        running = len(self._rows)
        self._draft()
        segments, copies = self._admit(waiting)
        logits = self._forward(running, segments, copies)
        rows = self._rows
        for slot, row in zip(self._slots, rows, strict=False):
            slot.resident = len(slot.tokens)
            if not row.tokens:
                row.length = len(row.job.tokens) - 1  # as if its last token had been fed now
        asked = [(row, 0) for row in rows]
        asked += [(row, ahead) for row in rows for ahead in range(1, len(row.draft) + 1)]
        chosen = choose(logits, [row.job.decoding for row, _ in asked], [row.draw(ahead) for row, ahead in asked])
        after_drafts = iter(chosen[len(rows) :])
        chosen_by_row = [[token, *islice(after_drafts, len(r.draft))] for r, token in zip(rows, chosen, strict=False)]
        for i in reversed(range(len(rows))):
            row = rows[i]
            right, ending = row.take(chosen_by_row[i])
            if row.draft:
                self._book.learn(row.order, len(row.draft), right)
            row.draft = []
            if ending is not None:
                self._release(i)
                on_finish(row.job, ending, len(row.tokens))

    def _draft(self) -> None:
        """Draft what the running sequences will choose next."""
        rows = self._rows
        drafts = self._book.draft([row.text for row in rows], [row.room() for row in rows])
        for row, (order, draft) in zip(rows, drafts, strict=True):
            row.order, row.draft = order, draft

    # --- slots: 0 … len(rows) run, the others keep what they last held -------------------------------

    def _reserve(self, length: int) -> None:
        """Make slots of at least `length` positions; the old ones are kept when they are long enough.

        Longer ones are made where all rows still fit, since jobs that come later may need them (memory that
        no sequence reaches is never touched).
        """
        if self._cache is not None and self._cache.length >= length:
            return
        config = self._model.config.get_text_config()
        each = self._bytes_per_position(config)
        if self._cache_bytes // (_GENEROUS * each) >= self._max_rows:
            length = max(length, _GENEROUS)
        length = -(-length // 128) * 128
        affordable = self._cache_bytes // (length * each)
        slots = int(max(1, min(2 * self._max_rows, affordable)))
        self._cache = None  # free the old one first
        self._cache = kv_cache.PackedCache(config.num_hidden_layers, slots, length)
        self._slots = [_Slot(np.empty(0, dtype=np.int64)) for _ in range(slots)]

    def _bytes_per_position(self, config: Any) -> int:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self._model.dtype.itemsize)

    def _admit(self, waiting: Queue) -> tuple[tuple[kv_cache.Segment, ...], tuple[kv_cache.Copy, ...]]:
        """Give waiting jobs the free slots, until the pass is full."""
        segments: list[kv_cache.Segment] = []
        copies: list[kv_cache.Copy] = []
        limit = min(self._max_rows, len(self._slots))
        running, new_tokens = len(self._rows), 0
        while waiting and len(self._rows) < limit and (not segments or new_tokens < self._pass_tokens):
            if self._cache is not None and _room(waiting.first()) > self._cache.length:
                break  # longer slots are made once all rows have ended
            job = waiting.pop()
            at = len(self._rows)
            start = self._place(job.tokens, at, copies)
            self._rows.append(Row(job, start, text=Text(job.tokens.tolist(), len(job.tokens))))
            count = len(job.tokens) - start
            segments.append(kv_cache.Segment(at, running + new_tokens, start, count))
            new_tokens += count
        return tuple(segments), tuple(copies)

    def _place(self, tokens: Tokens, at: int, copies: list[kv_cache.Copy]) -> int:
        """Prepare slot `at` for a prompt; returns how many of its positions need not be computed.

        At least the last position is computed, since its logits are wanted.
        """
        assert self._cache is not None
        shared = [min(_common(tokens, s.tokens), len(tokens) - 1) for s in self._slots]
        best = max(range(len(shared)), key=shared.__getitem__)
        free = range(at, len(self._slots))
        if best < at or shared[best] == 0 or 2 * shared[best] < len(self._slots[best].tokens):
            victim = min(free, key=lambda i: self._slots[i].used)
        else:
            victim = best  # holds little else than what is shared: go on in place
        self._swap(at, victim)
        best = at if best == victim else victim if best == at else best
        length, source = shared[best], self._slots[best]
        slot = self._slots[at]
        self._clock += 1
        if best != at:
            ready = min(length, source.resident)
            self._cache.copy(best, at, ready)
            if ready < length:
                copies.append(kv_cache.Copy(best, at, ready, length))
            slot.resident = ready
        else:
            slot.resident = length
        slot.tokens, slot.used = tokens, self._clock
        return length

    def _swap(self, a: int, b: int) -> None:
        assert self._cache is not None
        if a != b:
            one, two = self._slots[a], self._slots[b]
            self._cache.swap(a, b, max(len(one.tokens), len(two.tokens)))
            self._slots[a], self._slots[b] = two, one

    def _sort(self) -> None:
        """Bring the longest sequences to the front, so that those that attend together are of like length."""
        for i in range(len(self._rows)):
            j = max(range(i, len(self._rows)), key=lambda n: self._rows[n].length)
            if self._rows[j].length > self._rows[i].length + _UNLIKE and self._cache is not None:
                self._cache.swap(i, j, self._rows[j].length)
                self._slots[i], self._slots[j] = self._slots[j], self._slots[i]
                self._rows[i], self._rows[j] = self._rows[j], self._rows[i]

    def _release(self, i: int) -> None:
        """End the job in slot `i`; the last running one moves there, what was written stays to be shared."""
        row, last = self._rows[i], len(self._rows) - 1
        self._book.remember(row.tokens)
        for j in {i, last}:
            held = self._rows[j]
            self._slots[j].tokens = np.concatenate([held.job.tokens, held.tokens])[: held.length].astype(np.int64)
            self._slots[j].resident = held.length
        self._swap(i, last)
        self._rows[i] = self._rows[last]
        self._rows.pop()
        if i != last:
            self._slots[i].tokens = self._rows[i].job.tokens
            self._slots[i].resident = len(self._slots[i].tokens)
        self._clock += 1
        self._slots[last].used = self._clock
        assert row.length <= self._cache.length if self._cache else True

    # --- the model ------------------------------------------------------------------------------------

    def _forward(
        self, running: int, segments: tuple[kv_cache.Segment, ...], copies: tuple[kv_cache.Copy, ...]
    ) -> torch.Tensor:
        """Logits ``[rows + drafted, vocabulary]`` for the next token of every row, new ones included, and then for
        what comes after each token of a draft, row by row."""
        rows, cache, device = self._rows, self._cache, self._model.device
        assert cache is not None
        ids = [np.array([r.tokens[-1] for r in rows[:running]], dtype=np.int64)]
        slots = [np.arange(running)]
        positions = [np.array([r.length for r in rows[:running]], dtype=np.int64)]
        for s in segments:
            ids.append(rows[s.slot].job.tokens[s.start :])
            slots.append(np.full(s.count, s.slot))
            positions.append(np.arange(s.start, s.start + s.count))
        last = [*range(running), *(s.first + s.count - 1 for s in segments)]
        for i, row in enumerate(rows[:running]):
            if count := len(row.draft):
                drafted = kv_cache.Segment(i, sum(map(len, ids)), row.length + 1, count)
                segments = (*segments, drafted)
                ids.append(np.array(row.draft, dtype=np.int64))
                slots.append(np.full(count, i))
                positions.append(np.arange(drafted.start, drafted.start + count))
                last += range(drafted.first, drafted.first + count)
        pos = torch.from_numpy(np.concatenate(positions)).to(device)
        longest = tuple(int(positions[0][g : g + kv_cache.GROUP].max()) + 1 for g in range(0, running, kv_cache.GROUP))
        where = torch.from_numpy(np.concatenate(slots)).to(device)
        cache.step = kv_cache.Step(running, where, pos, segments, copies, longest)
        logits: torch.Tensor = self._model(
            input_ids=torch.from_numpy(np.concatenate(ids)).to(device)[None],
            position_ids=pos[None],
            **{self._cache_argument: cache},
            use_cache=True,
            logits_to_keep=torch.tensor(last, device=device),
            packed=cache,
        ).logits[0]
        cache.step = None
        return logits


def _room(job: Job) -> int:
    """Positions that a job may need."""
    return len(job.tokens) + job.decoding.max_new_tokens


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common prefix."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
