"""The visible tests of a task: the examples that a reader of its prompt sees, as assert statements.

Extraction is conservative. An example counts only when its call and its expected value can be parsed
without guessing; everything else is dropped, since a wrong visible test misleads every strategy.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from promptrl_plugin.parsing import retried
from promptrl_plugin.records import AssertGroup

__all__ = ["assert_statements", "call_examples", "called_names", "examples", "imports_for", "parse", "visible_tests"]

#: What stands between a call and its value in HumanEval's prose examples.
_ARROW = re.compile(
    r"\s*(?:#\s*)?(?P<sign>==>|=>|->|➞|→|➜|==|=|(?:should\s+return|must\s+return|will\s+return|returns?)\b:?)\s*"
)
#: What may follow the value of a prose example on its line.
_REMARK = re.compile(r"\s*(?:[.,;]?\s*|[.,;]?\s*#.*|[.,;]?\s+\(.*\)[.]?\s*)")
_INPUT = re.compile(r"\s*Input:\s*(\S.*)")
_OUTPUT = re.compile(r"\s*Output:\s*(\S.*)")
_FOR_INPUT = re.compile(r"\s*For (?P<inputs>\w+\s*=.+?)\s+the (?:output|result) should be\s+(?P<output>\S.*)")
_JSON_CONSTANTS = {"true": "True", "false": "False", "null": "None"}
_MAX_EXAMPLE_LINES = 12


def visible_tests(prompt: str, entry_point: str, dialect: str) -> AssertGroup:
    """Extract the visible tests of an EvalPlus prompt.

    Args:
        prompt: EvalPlus's prompt, verbatim.
        entry_point: Function that the tests must call.
        dialect: ``"mbpp"`` (asserts in a docstring) or ``"humaneval"`` (signature, docstring with
            doctests or prose examples).

    Returns:
        The asserts in the prompt's order; empty when the prompt shows none that can be parsed.
    """
    extract = assert_statements if dialect == "mbpp" else examples
    asserts = extract(prompt, entry_point)
    return AssertGroup(asserts=tuple(asserts), setup=imports_for(asserts))


def parse(source: str, mode: Literal["exec", "eval"] = "exec") -> Any:
    """`ast.parse` without its warnings: an invalid escape in a benchmark's text is not the user's doing.

    Raises:
        SyntaxError: `source` is not Python; a ValueError if it holds null characters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return retried(lambda: ast.parse(source, mode=mode))


def assert_statements(text: str, entry_point: str) -> list[str]:
    """Complete assert statements (of one or more lines) in `text` that call `entry_point`."""
    lines = text.splitlines()
    found: list[str] = []
    at = 0
    while at < len(lines):
        if not lines[at].lstrip().startswith("assert"):
            at += 1
            continue
        for end in range(at + 1, min(len(lines), at + _MAX_EXAMPLE_LINES) + 1):
            source = "\n".join(lines[at:end]).strip()
            node = _statement(source)
            if isinstance(node, ast.Assert):
                if entry_point in called_names(node.test):
                    found.append(source)
                at = end - 1
                break
        at += 1
    return found


def imports_for(asserts: Iterable[str]) -> str:
    """Import statements for the standard modules that `asserts` use (``math.isclose`` → ``import math``)."""
    modules = {
        node.value.id
        for source in asserts
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return "\n".join(f"import {m}" for m in sorted(modules & sys.stdlib_module_names))


def called_names(node: ast.AST) -> set[str]:
    """Names that `node` calls as plain functions."""
    return {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}


def examples(prompt: str, entry_point: str) -> list[str]:
    """Asserts from the docstring of `entry_point` in a HumanEval prompt.

    Doctests come first, then prose examples, then described inputs. A call that is shown with two
    different values is dropped altogether. An example that the benchmark itself has wrong (HumanEval/47
    and /116 do) is kept: it is what the reader sees, and telling it apart takes the reference.
    """
    function = _function(prompt, entry_point)
    if function is None:
        return []
    # The source text and not its value: escapes in an example belong to the example.
    lines = (ast.get_source_segment(prompt, function.body[0]) or "").strip("rRuU").strip("\"'").splitlines()
    pairs = call_examples(lines, function)
    values: dict[str, set[str]] = {}
    for call, value in pairs:
        values.setdefault(call, set()).add(value)
    return [
        f"assert {call} {'is' if value == 'None' else '=='} {value}" for call, value in pairs if len(values[call]) == 1
    ]


def call_examples(lines: list[str], function: ast.FunctionDef) -> list[tuple[str, str]]:
    """(call, value) of the example calls of `function` in the lines of a description, each as Python source."""
    found = [*_doctests(lines, function), *_prose(lines, function.name), *_described(lines, function)]
    return list(dict.fromkeys(found))


def _function(prompt: str, name: str) -> ast.FunctionDef | None:
    """Definition of function `name` with a docstring in `prompt`."""
    try:
        body = parse(prompt).body
    except (SyntaxError, ValueError):
        return None
    functions = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == name and ast.get_docstring(n))
    return next(functions, None)


def _doctests(lines: list[str], function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(call, value) of ``>>> call`` with its value below, or of ``>>> call == value``."""
    returns = ast.unparse(function.returns) if function.returns else ""
    may_be_none = "Optional" in returns or "None" in returns
    for at, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            continue
        source = line.lstrip()[3:].strip()
        node = _expression(source)
        if node is None or not _is_closed_call(node, function.name):
            continue
        if isinstance(node, ast.Compare):
            if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq) and _literal(ast.unparse(node.comparators[0])):
                yield ast.unparse(node.left), ast.unparse(node.comparators[0])
            continue
        want = _doctest_value(lines[at + 1 : at + 1 + _MAX_EXAMPLE_LINES])
        if want == "" and may_be_none and at + 1 < len(lines):
            yield ast.unparse(node), "None"  # a doctest prints nothing for None
        elif value := _literal(want):
            yield ast.unparse(node), value


def _doctest_value(following: list[str]) -> str:
    """Lines after a ``>>>`` line up to a blank one or the next example."""
    value: list[str] = []
    for line in following:
        if not line.strip() or line.lstrip().startswith((">>>", "...")):
            break
        value.append(line.strip())
    return " ".join(value)


def _prose(lines: list[str], entry_point: str) -> Iterator[tuple[str, str]]:
    """(call, value) of ``f(x) == y``, ``f(x) ➞ y``, ``f(x) # => y``, ``f(x) returns y`` and the like.

    A single ``=`` is also how recurrences are written (HumanEval/130), where ``f(1) = 3`` need not be an
    example: such pairs count only where each ``f(…) =`` of the docstring has literals on both sides.
    """
    equations: list[tuple[str, str] | None] = []
    for at, line in enumerate(lines):
        if line.lstrip().startswith(">>>"):
            continue
        for match in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\s*\(", line):
            text = "\n".join([line[match.start() :], *lines[at + 1 : at + _MAX_EXAMPLE_LINES]])
            sign, pair = _prose_example(text, entry_point)
            if sign == "=":
                equations.append(pair)
            elif pair is not None:
                yield pair
    if None not in equations:
        yield from (pair for pair in equations if pair is not None)


def _prose_example(text: str, entry_point: str) -> tuple[str, tuple[str, str] | None]:
    """The sign after the call that `text` begins with, and (call, value) if both are plain literals."""
    for end in (m.end() for m in re.finditer(r"\)", text)):
        node = _expression(text[:end])
        if node is None:
            continue
        arrow = _ARROW.match(text, end)
        if arrow is None or not isinstance(node, ast.Call):
            return "", None
        sign = arrow["sign"]
        if node.keywords or not all(_literal(ast.unparse(a)) for a in node.args):
            return sign, None
        value = _leading_literal(text[arrow.end() :])
        return sign, (ast.unparse(node), value) if value else None
    return "", None


def _described(lines: list[str], function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(call, value) of ``Input: a = 1, b = 2`` / ``Output: 3``, and of ``For a = 1, b = 2 the output should be 3``.

    Inputs are named as the function's parameters, in their order; a single one may stay unnamed.
    """
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if match := _FOR_INPUT.match(line):
            inputs, output = match["inputs"], match["output"]
        elif (given := _INPUT.match(line)) and (wanted := _OUTPUT.match(following)):
            inputs, output = given[1], wanted[1]
        else:
            continue
        call = _call_of(inputs.strip().rstrip(","), function)
        value = _leading_literal(output)
        if call and value:
            yield call, value


def _call_of(inputs: str, function: ast.FunctionDef) -> str:
    """Call of `function` on ``a = 1, b = 2`` or on one bare literal; ``""`` if they do not fit together."""
    names = [a.arg for a in function.args.args]
    node = _expression(f"{function.name}({inputs})")
    if not isinstance(node, ast.Call):
        return ""
    values = [*node.args, *(k.value for k in node.keywords)]
    given = [k.arg for k in node.keywords]
    if given != names and not (len(names) == len(values) == 1 and not given):
        return ""
    literals = [_literal(ast.unparse(v)) for v in values]
    return f"{function.name}({', '.join(literals)})" if all(literals) else ""


def _leading_literal(text: str) -> str:
    """Literal that the first line of `text` (more lines for an open bracket) consists of, or ``""``.

    After it only punctuation, a comment or a remark in brackets may follow on its line.
    """
    lines = text.split("\n")
    for count in range(1, len(lines) + 1 if text[:1] in tuple("[({") else 2):
        part = " ".join(line.strip() for line in lines[:count])
        for end in range(len(part), 0, -1):
            # "returns 16." ends a sentence; it is not the float 16.0
            if part[end - 1] != "." and _REMARK.fullmatch(part, end) and (value := _literal(part[:end])):
                return value
    return ""


def _is_closed_call(node: ast.expr, entry_point: str) -> bool:
    """Whether `node` calls `entry_point` and uses no other names than builtins."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return entry_point in called_names(node) and all(n == entry_point or hasattr(builtins, n) for n in names)


def _literal(source: str) -> str:
    """`source` as a normalised Python literal, or ``""`` if it is none."""
    source = _JSON_CONSTANTS.get(source.strip(), source.strip())
    try:
        value = ast.literal_eval(parse(source, "eval"))
        if source.startswith("(") and not isinstance(value, tuple):
            return ""  # HumanEval/148 writes ("Venus") and means a tuple
        return ast.unparse(parse(source, "eval"))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return ""


def _expression(source: str) -> ast.expr | None:
    try:
        expression: ast.expr = parse(source.strip(), "eval").body
        return expression
    except (SyntaxError, ValueError):
        return None


def _statement(source: str) -> ast.stmt | None:
    """The one statement that `source` consists of, or None."""
    try:
        body = parse(source).body
    except (SyntaxError, ValueError):
        return None
    return body[0] if len(body) == 1 else None
