"""Parsing in threads."""

from __future__ import annotations

import ast

import pytest

from promptrl_plugin.parsing import retried


def test_a_mismatch_of_depth_is_tried_again_and_nothing_else() -> None:
    failures = [SystemError("AST constructor recursion depth mismatch (before=72, after=88)")] * 3

    def parse() -> ast.Module:
        if failures:
            raise failures.pop()
        return ast.parse("x = 1")

    assert ast.unparse(retried(parse)) == "x = 1"

    tries = []

    def other() -> None:
        tries.append(1)
        raise SystemError("something else")

    with pytest.raises(SystemError, match="something else"):
        retried(other)
    assert len(tries) == 1
    with pytest.raises(SyntaxError):
        retried(lambda: ast.parse("x ="))
