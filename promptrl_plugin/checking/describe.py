"""Short text about values that may be of any size."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

from promptrl_plugin.checking.codec import Opaque

__all__ = ["DETAIL_LENGTH", "call_text", "clip", "value_text"]

DETAIL_LENGTH = 200


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 60, 60, 40
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 8

    def repr_int(self, x: int, level: int) -> str:
        # repr of an integer of more than 4,300 digits raises.
        return f"<int of {x.bit_length()} bits>" if x.bit_length() > 4000 else super().repr_int(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, np.ndarray):
            return f"array({self.repr1(x.ravel()[:8].tolist(), level)})"
        if isinstance(x, (np.generic, Opaque)):
            return str(x)[:60]
        return super().repr_instance(x, level)


_SHORT = _Short()


def value_text(value: Any) -> str:
    """`repr`, abbreviated."""
    try:
        return _SHORT.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def call_text(function: str, args: Any) -> str:
    """A call as Python would write it, abbreviated."""
    try:
        return f"{function}({', '.join(value_text(a) for a in args)})"
    except TypeError:
        return f"{function}(…)"


def clip(text: str) -> str:
    """`text` on one line, at most `DETAIL_LENGTH` characters."""
    text = " ".join(text.split())
    return text if len(text) <= DETAIL_LENGTH else text[: DETAIL_LENGTH - 1] + "…"
