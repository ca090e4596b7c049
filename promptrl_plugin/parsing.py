"""Parsing that several threads may do at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["retried"]

T = TypeVar("T")

_TRIES = 20


def retried(parse: Callable[[], T]) -> T:
    """What `parse` returns, a call of `ast.parse` or `ast.literal_eval`.

    CPython 3.11 keeps the depth of the tree that it builds for all threads together. Where one takes over from
    another it may end in a SystemError ("AST constructor recursion depth mismatch", python/cpython#106905); the next
    try is fine.

    Raises:
        SystemError: It is another one, or it never ends.
    """
    for _ in range(_TRIES):
        try:
            return parse()
        except SystemError as e:
            if "recursion depth mismatch" not in str(e):
                raise
    return parse()
