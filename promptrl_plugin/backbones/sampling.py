"""Choosing the next token: greedy, or sampled from a random stream that belongs to the request alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from promptrl_plugin.records import Decoding

__all__ = ["choose", "uniforms"]

_CANDIDATES = 256
"""Tokens looked at before the whole vocabulary is sorted; nearly every nucleus is smaller."""


def uniforms(seed: int, index: int, prompt: str, count: int) -> npt.NDArray[np.float64]:
    """The random stream of one request: `count` numbers in [0, 1), one a token.

    A counter-based generator (Philox, Salmon et al. 2011) keyed by the hash of `seed`, `index` and the
    rendered prompt, so a draw depends neither on the batch nor on what was drawn before.
    """
    digest = hashlib.sha256(f"{seed}\0{index}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def choose(logits: torch.Tensor, decodings: Sequence[Decoding], draws: Sequence[float]) -> list[int]:
    """Next token of each row.

    Args:
        logits: ``[rows, vocabulary]``.
        decodings: One a row; temperature 0 takes the largest logit.
        draws: One number in [0, 1) a row; looked at only where the row is sampled.

    Returns:
        Token ids, one a row.
    """
    tokens = _largest(logits)
    sampled = [i for i, d in enumerate(decodings) if not d.greedy]
    if not sampled:
        return tokens
    rows = logits if len(sampled) == len(tokens) else logits[sampled]
    temperature = torch.tensor([decodings[i].temperature for i in sampled], device=rows.device)
    scaled = rows.float() / temperature[:, None]
    top, ids = scaled.topk(min(_CANDIDATES, scaled.shape[1]), dim=-1)
    total = torch.logsumexp(scaled, dim=-1).double()
    mass = (top.double() - total[:, None]).exp().cumsum(dim=-1).cpu().numpy()
    candidates = ids.cpu().numpy()
    for n, i in enumerate(sampled):
        picked = _pick(mass[n], decodings[i].top_p, draws[i])
        if picked is None:
            tokens[i] = _pick_from_all(scaled[n], decodings[i].top_p, draws[i])
        else:
            tokens[i] = int(candidates[n, picked])
    return tokens


def _largest(logits: torch.Tensor) -> list[int]:
    """Position of the largest logit of each row, the first of equal ones.

    On a CPU by numpy, which is ten times faster at it: positive bfloat16 numbers are in the order of their bits.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.bfloat16:
        bits = logits.view(torch.int16).numpy()
        found = bits.argmax(axis=-1)
        if (np.take_along_axis(bits, found[:, None], axis=-1) > 0).all():
            return [int(i) for i in found]
    elif logits.device.type == "cpu" and logits.dtype == torch.float32:
        return [int(i) for i in logits.numpy().argmax(axis=-1)]
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def _pick(mass: npt.NDArray[np.float64], top_p: float, draw: float) -> int | None:
    """Invert the distribution function of the nucleus: the fewest most likely tokens whose mass reaches `top_p`.

    Args:
        mass: Cumulative probability of the most likely tokens, in falling order.
        top_p: Mass of the nucleus.
        draw: In [0, 1).

    Returns:
        Rank of the token, or None where `mass` does not reach far enough to tell.
    """
    if top_p >= 1.0:
        rank = int(np.searchsorted(mass, draw, side="right"))
        return rank if rank < len(mass) else None
    last = int(np.searchsorted(mass, top_p, side="left"))
    if last >= len(mass):
        return None
    return min(int(np.searchsorted(mass[: last + 1], draw * mass[last], side="right")), last)


def _pick_from_all(scaled: torch.Tensor, top_p: float, draw: float) -> int:
    """The same over the whole vocabulary, for the rare flat distribution."""
    probabilities, ids = scaled.double().softmax(dim=-1).sort(descending=True, stable=True)
    mass = probabilities.cumsum(dim=-1).cpu().numpy()
    mass /= mass[-1]
    rank = _pick(mass, top_p, draw)
    return int(ids[len(mass) - 1 if rank is None else rank])
