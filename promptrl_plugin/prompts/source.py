"""Parse code that others wrote."""

from __future__ import annotations

import ast
import warnings

from promptrl_plugin.parsing import retried

__all__ = ["parsed"]


def parsed(source: str) -> ast.Module | None:
    """Syntax tree of `source`, None if it does not parse.

    Benchmarks hold escapes such as ``"\\\\w"`` in plain strings; Python's warnings about them help nobody.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return retried(lambda: ast.parse(source))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None
