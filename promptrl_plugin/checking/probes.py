"""Probes: inputs generated from the visible ones, to see where programs differ. Nobody knows the right outputs.

EvalPlus's own type-aware mutation (`evalplus.gen.type_mut.TypedMutGen`, 0.3.1), applied to one argument at a
time. EvalPlus throws away what a task's contract refuses; contracts are hidden material, so what the visible
inputs have in common takes their place: a probe has the same types in the same places, and a negative number, an
empty collection, or a list in a list of some length only where a visible input has one. Outside of that, right
programs differ, too.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from promptrl_plugin.records import content_hash

__all__ = ["ProbeGroup", "probe_inputs"]

GENERATOR_VERSION = 1  #: raised whenever other inputs may come out
PROBES = 32
_TRIES = 64 * PROBES
_MAX_STEPS = 5  # mutations in a row (`type_mut.MAX_MULTI_STEP_SIZE`)
_ROOM = 512  # characters that a probe may be longer than the longest visible input


@dataclass(frozen=True, slots=True)
class ProbeGroup:
    """What probes are made from: visible material only.

    Attributes:
        entry_point: Function to call.
        calls: Positional arguments of its visible calls, each the source of a tuple of literals.
        view: The builtin that every visible test puts around the call (``set``, ``sorted``, …), or ``""``; outputs
            are compared as seen through it.
    """

    entry_point: str
    calls: tuple[str, ...]
    view: str = ""

    @property
    def key(self) -> str:
        """Content hash; the input side of the cache key of outcomes."""
        return content_hash("probes", GENERATOR_VERSION, PROBES, self.entry_point, self.calls, self.view)


def probe_inputs(group: ProbeGroup) -> list[list[Any]]:
    """Up to `PROBES` distinct argument lists, none of them visible; the same ones at every call.

    (Exactly the same in every process only with a fixed ``PYTHONHASHSEED``, if arguments hold sets of strings.)
    """
    seeds = [list(ast.literal_eval(call)) for call in group.calls]
    before = random.getstate()  # EvalPlus draws from the global generator
    random.seed(int(group.key[:16], 16))
    try:
        return _mutated([s for s in seeds if s])
    finally:
        random.setstate(before)


class _Ingredients(dict[Any, None]):
    """An ordered set: EvalPlus draws from sets, whose order is not the same in every process."""

    def add(self, value: Any) -> None:
        self[value] = None


def _mutated(seeds: list[list[Any]]) -> list[list[Any]]:
    from evalplus.gen.type_mut import TypedMutGen

    mutator = TypedMutGen([], "", "")
    mutator.ingredients = {kind: _Ingredients() for kind in mutator.ingredients}
    for seed in seeds:
        mutator.fetch_ingredient(seed)
    allowed = {fact for seed in seeds for fact in _facts(tuple(seed))}
    known = {repr(seed) for seed in seeds}
    limit = max(map(len, known), default=0) + _ROOM
    pool, found = list(seeds), []
    for _ in range(_TRIES if pool else 0):
        made = _step(mutator, random.choice(pool), limit)
        text = repr(made)
        if made is None or text in known or not allowed.issuperset(_facts(tuple(made))):
            continue
        known.add(text)
        pool.append(made)
        found.append(made)
        if len(found) == PROBES:
            break
    return found


def _step(mutator: Any, arguments: Sequence[Any], limit: int) -> list[Any] | None:
    """Some mutations of some arguments; None where they come to nothing."""
    made = deepcopy(list(arguments))
    try:
        for _ in range(random.randint(1, _MAX_STEPS)):
            at = random.randrange(len(made))
            made[at] = mutator.typed_mutate(made[at])
        text = repr(made)
        # Through its text: what stays are plain literals that share no parts.
        plain: list[Any] | None = ast.literal_eval(text) if len(text) <= limit else None
    except Exception:  # no mutation for the type, an unhashable key, infinity, …
        return None
    return plain


def _facts(value: Any, path: str = "") -> Iterator[str]:
    """What is true of a value and of its parts, by their place in it."""
    yield f"{path} {type(value).__name__}"
    if isinstance(value, int | float) and value < 0:
        yield f"{path} negative"
    if isinstance(value, str | list | tuple | set | dict) and not value:
        yield f"{path} empty"
    if isinstance(value, list | tuple) and path.count("[") > 1:  # a row, a record
        yield f"{path} of {len(value)}"
    if isinstance(value, dict):
        parts = [("{}", k) for k in value] + [("{}:", v) for v in value.values()]
    elif isinstance(value, list | tuple | set):
        mixed = len({type(v) for v in value}) > 1 or not path
        parts = [(f"[{i}]" if mixed else "[]", v) for i, v in enumerate(value)]
    else:
        parts = []
    for step, part in parts:
        yield from _facts(part, path + step)
