"""Keys and values of many sequences in fixed slots, and attention over a packed batch of them.

One forward pass of the engine is a single row of tokens, ``[1, T]``: the next token of every running
sequence first, then the new tokens of the prompts that join, then the drafts of what comes after some of
the first. So no pass computes padding, and linear layers see one large matrix. Each token knows its slot
and position; only attention has to tell the sequences apart, which is what `attend` does. It is
registered as an attention implementation of transformers, so that the model's own code runs unchanged
around it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["ATTENTION", "GROUP", "Copy", "PackedCache", "Segment", "Step", "attend", "cache_argument", "register"]

ATTENTION = "promptrl_packed"
"""Name under which `attend` is registered with transformers."""

_QUERY_CHUNK = 256
"""Queries of one prompt that attend at once; bounds the size of the score matrix."""

GROUP = 16
"""Running sequences that attend at once, each padded to the longest of them; the engine keeps them sorted."""


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one prompt, or the draft of a running sequence, in a packed pass: tokens
    ``first … first+count`` of the row go to positions ``start … start+count`` of `slot`."""

    slot: int
    first: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Positions ``start … stop`` of slot `source` that slot `target` shares, computed in this very pass."""

    source: int
    target: int
    start: int
    stop: int


@dataclass(slots=True)
class Step:
    """Layout of one packed pass.

    Attributes:
        rows: Running sequences; token ``i < rows`` of the pass belongs to slot ``i``.
        slots: Slot of each token, int64 ``[T]``.
        positions: Position of each token, int64 ``[T]``.
        segments: The prompts that join, in order, and the drafts.
        copies: Shared prefixes between them, applied layer by layer, in order.
        longest: Largest position, plus one, in each `GROUP` of running sequences.
    """

    rows: int
    slots: torch.Tensor
    positions: torch.Tensor
    segments: tuple[Segment, ...]
    copies: tuple[Copy, ...]
    longest: tuple[int, ...]
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[slice, int]]:
        """Running sequences that attend together, and how far back the longest of them reaches."""
        for n, longest in enumerate(self.longest):
            yield slice(n * GROUP, min((n + 1) * GROUP, self.rows)), longest

    def decode_mask(self, rows: slice, longest: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Additive mask ``[rows, 1, 1, longest]`` of a group, the same for all layers."""
        return self._mask((-1, rows.start, window), self.positions[rows], longest, window, like)[:, None, None]

    def segment_mask(self, index: int, offset: int, count: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Additive causal mask ``[count, start + offset + count]`` for a part of a segment."""
        segment = self.segments[index]
        first = segment.first + offset
        positions = self.positions[first : first + count]
        return self._mask((index, offset, window), positions, segment.start + offset + count, window, like)

    def _mask(
        self,
        key: tuple[int, int, int | None],
        positions: torch.Tensor,
        length: int,
        window: int | None,
        like: torch.Tensor,
    ) -> torch.Tensor:
        if key not in self._masks:
            distance = positions[:, None] - torch.arange(length, device=positions.device)[None]
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=positions.device)
            self._masks[key] = mask.masked_fill_(hidden, torch.finfo(like.dtype).min)
        return self._masks[key]


class PackedCache:
    """Preallocated keys and values, ``[layers, slots, kv heads, length, head dim]`` each.

    Duck-types the part of `transformers.Cache` that attention layers use. Storage is made at the first
    pass, when the layers show their shapes; pages that no sequence has reached cost no memory.

    Args:
        layers: Number of attention layers.
        slots: Sequences that can be held.
        length: Positions of each.
    """

    is_compileable = False

    def __init__(self, layers: int, slots: int, length: int) -> None:
        self.layers, self.slots, self.length = layers, slots, length
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        self.step: Step | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the pass's new ``[1, kv heads, T, head dim]`` keys and values; return the layer's storage."""
        assert self.step is not None
        if self._keys is None or self._values is None:
            self._keys = self._allocate(keys)
            self._values = self._allocate(values)
        stored = self._keys[layer], self._values[layer]
        for storage, new in zip(stored, (keys, values), strict=True):
            storage[self.step.slots, :, self.step.positions] = new[0].transpose(0, 1)
            for copy in self.step.copies:
                shared = slice(copy.start, copy.stop)
                storage[copy.target, :, shared] = storage[copy.source, :, shared]
        return stored

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.layers, self.slots, like.shape[1], self.length, like.shape[3])
        # zeros, since masked positions are still multiplied, and garbage may be NaN
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another, in all layers."""
        for storage in (self._keys, self._values):
            if storage is not None and length:
                storage[:, target, :, :length] = storage[:, source, :, :length]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` positions of two slots, in all layers."""
        for storage in (self._keys, self._values):
            if storage is not None and length:
                storage[:, [a, b], :, :length] = storage[:, [b, a], :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused by packed passes, which carry explicit positions; models ask before they look at those."""
        return 0


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedCache | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed pass; an attention function of transformers' `AttentionInterface`.

    Query heads that share a key head are laid side by side as queries of that head, so grouped-query
    models never repeat their keys.

    Args:
        module: The attention layer (unused).
        query: ``[1, heads, T, head dim]``.
        key: The layer's storage, ``[slots, kv heads, length, head dim]``, as `PackedCache.update` returns it.
        value: The same for values.
        attention_mask: Unused; the step makes its own masks.
        scaling: Factor of the scores; one over the root of the head dimension by default.
        packed: The cache, whose `step` is the layout of this pass.
        sliding_window: Positions that a token sees at most, itself included.
        softcap: Gemma 2's cap ``c·tanh(score/c)``.

    Returns:
        ``[1, T, heads, head dim]`` and None.
    """
    assert packed is not None
    assert packed.step is not None
    step, (_one, heads, tokens, width) = packed.step, query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    scale = width**-0.5 if scaling is None else scaling
    out = query.new_empty((tokens, heads, value.shape[3]))
    for rows, longest in step.groups():
        q = query[0, :, rows].transpose(0, 1).reshape(-1, kv_heads, group, width)
        mask = step.decode_mask(rows, longest, sliding_window, query)
        part = _attention(q, key[rows, :, :longest], value[rows, :, :longest], mask, scale, softcap)
        out[rows] = part.reshape(len(part), heads, -1)
    for index, segment in enumerate(step.segments):
        for offset in range(0, segment.count, _QUERY_CHUNK):
            count = min(_QUERY_CHUNK, segment.count - offset)
            first, end = segment.first + offset, segment.start + offset + count
            q = query[0, :, first : first + count].reshape(1, kv_heads, group * count, width)
            k, v = key[segment.slot, None, :, :end], value[segment.slot, None, :, :end]
            mask = step.segment_mask(index, offset, count, sliding_window, query).repeat(group, 1)
            part = _attention(q, k, v, mask, scale, softcap).reshape(heads, count, -1)
            out[first : first + count] = part.transpose(0, 1)
    return out[None], None


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """Masked attention of ``[n, kv heads, queries, dim]`` queries; softmax in float32."""
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scale / softcap)) + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def cache_argument(model: torch.nn.Module) -> str:
    """What `model` calls the argument that takes a cache: transformers renamed it in its release 5."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def register() -> None:
    """Make `attend` known to transformers under `ATTENTION`; calling it again is harmless."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
