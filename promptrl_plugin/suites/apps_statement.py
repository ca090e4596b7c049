"""The examples that the statement of an APPS task shows, as the visible tests.

Conservative, as `visible` is: what cannot be read without guessing is no test.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from promptrl_plugin.groups import PairGroup
from promptrl_plugin.suites.visible import call_examples, parse

__all__ = ["example_lines", "heading", "visible_pairs"]

_RULE = re.compile(r"\s*-{3,10}\s*([^\s-].*?)\s*-{3,10}\s*")
_PLAIN = re.compile(
    r"\s*[*_#]{0,3}\s*((?:sample|example)s?(?:\s+(?:input|output)s?)?(?:\s+\d+)?|notes?|hints?|explanations?\b.*)"
    r"\s*:?\s*[*_]{0,2}\s*",
    re.I,
)
_IN_OR_OUT = re.compile(r"\s*(input|output)s?\s*:?\s*", re.I)
_WORDS = re.compile(r"[A-Za-z]{2,}")


def heading(line: str) -> str | None:
    """The title in a line that is a heading of a statement (``-----Input-----``), in lower case; else None.

    Also what stands there without rules: ``Sample Input``, ``Example 2``, ``Note``, ``Explanation: …``.
    """
    match = _RULE.fullmatch(line) or _PLAIN.fullmatch(line)
    return match[1].lower() if match else None


def visible_pairs(question: str, function: str, starter_code: str) -> PairGroup:
    """The examples of a statement.

    Args:
        question: The statement.
        function: Function to be called; ``""`` for a script.
        starter_code: Its signature, where there is one.

    Returns:
        The examples in the statement's order; for a function in that of `visible.call_examples`.
    """
    pairs = list(_calls(question, function, starter_code) if function else _printed(question.splitlines()))
    given: dict[str, str] = {}
    for one, other in pairs:  # an input with two different outputs is no test
        given[one] = other if given.get(one, other) == other else ""
    kept = {one: other for one, other in given.items() if other}
    return PairGroup(function, tuple(kept), tuple(kept.values()))


# --- scripts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines ``[begin, end)`` that are an example's input or output."""

    output: bool
    begin: int
    end: int


def example_lines(lines: Sequence[str]) -> set[int]:
    """Positions of the lines of a statement that belong to its examples for scripts."""
    return {i for block in _blocks(lines) for i in range(block.begin, block.end)}


def _printed(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(input, output) of each example for a script."""
    blocks = _blocks(lines)
    for one, other in itertools.pairwise(blocks):
        if one.output or not other.output:
            continue
        given, wanted = (_text(lines[b.begin : b.end]) for b in (one, other))
        if given and wanted:
            yield given, wanted


def _blocks(lines: Sequence[str]) -> list[_Block]:
    """Inputs and outputs, in order.

    Two forms: a heading of its own for each (``-----Sample Input-----``), or one heading for all examples
    (``-----Examples-----``) with lines ``Input`` and ``Output`` below.
    """
    found: list[_Block] = []
    examples = False
    kind: bool | None = None  # of the open block: whether it is an output
    begin = 0
    for at, line in enumerate([*lines, "-----End-----"]):
        title = heading(line)
        inner = _IN_OR_OUT.fullmatch(line) if examples and title is None else None
        if title is None and inner is None:
            continue
        if kind is not None:
            found.append(_Block(kind, begin, _end(lines, begin, at) if kind else at))
        kind, begin = None, at + 1
        if inner is not None:
            kind = inner[1].lower() == "output"
        elif title is not None:
            example = title.startswith(("sample", "example"))
            named = re.search("input|output", title) if example else None
            kind = named[0] == "output" if named else None
            examples = example and named is None
    return found


def _end(lines: Sequence[str], begin: int, end: int) -> int:
    """Where an output ends: before the first paragraph that explains it."""
    at = begin
    while at < end and not lines[at].strip():
        at += 1
    while at < end:
        if not lines[at].strip() and _is_prose(next((line for line in lines[at:end] if line.strip()), "")):
            return at
        at += 1
    return end


def _is_prose(line: str) -> bool:
    return len(_WORDS.findall(line)) >= 4


def _text(lines: Sequence[str]) -> str:
    """Lines of an example as a text that ends in a line break; fences around them are none of it."""
    kept = [line.rstrip() for line in lines if not line.strip().startswith("```")]
    text = "\n".join(kept).strip("\n")
    return f"{text}\n" if text.strip() else ""


# --- functions -------------------------------------------------------------------------------------


def _calls(question: str, function: str, starter_code: str) -> Iterator[tuple[str, str]]:
    """(JSON of the arguments, JSON of the result in a list) of each example call."""
    for call, value in call_examples(question.splitlines(), _signature(function, starter_code)):
        node = parse(call, "eval").body
        assert isinstance(node, ast.Call)
        try:
            arguments = [ast.literal_eval(a) for a in node.args]
            result = ast.literal_eval(value)
            if node.keywords or not arguments or _odd(arguments) or _odd(result):
                continue
            yield json.dumps(arguments), json.dumps([result])
        except (ValueError, TypeError, SyntaxError):
            continue


def _signature(function: str, starter_code: str) -> ast.FunctionDef:
    """The function's definition with its parameters, without ``self``; without any where they are not known."""
    try:
        tree = parse(f"{starter_code.rstrip()} pass\n")
    except (SyntaxError, ValueError):
        tree = parse(f"def {function}(): pass\n") if function.isidentifier() else parse("def f(): pass\n")
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    found: ast.FunctionDef = next(nodes, None) or parse("def f(): pass").body[0]
    found.name = function
    found.args.args = [a for a in found.args.args if a.arg != "self"]
    return found


def _odd(value: object) -> bool:
    """Whether JSON could not hold `value` as it is (a tuple in it becomes a list, as in APPS's own tests)."""
    if isinstance(value, list | tuple):
        return any(map(_odd, value))
    if isinstance(value, dict):
        return True  # its keys would turn into strings
    return not (value is None or isinstance(value, bool | int | float | str))
