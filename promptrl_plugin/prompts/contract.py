"""What signature and visible tests say about arguments and result, in words.

Everything here is read off the prompt by its syntax tree; nothing is executed or guessed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from promptrl_plugin.prompts.source import parsed
from promptrl_plugin.records import Task

__all__ = ["UNKNOWN", "VisibleCall", "contract_note", "edge_case_note", "kind_of", "visible_calls"]

#: A value that is no literal.
UNKNOWN = object()


@dataclass(frozen=True, slots=True)
class VisibleCall:
    """A visible call of the entry point.

    Attributes:
        arguments: Values of the positional arguments; `UNKNOWN` for what is no literal.
        result: The value that the test wants, or `UNKNOWN`.
        wrapper: Name of the builtin that the test puts around the call (``set``, ``sorted``), or ``""``.
    """

    arguments: tuple[Any, ...]
    result: Any
    wrapper: str


def visible_calls(task: Task) -> list[VisibleCall]:
    """The visible tests that call the entry point plainly, read as calls."""
    calls: list[VisibleCall] = []
    for source in task.visible.asserts:
        tree = parsed(source)
        statement = tree.body[0] if tree and tree.body else None
        if isinstance(statement, ast.Assert) and (found := _from_test(statement.test, task.entry_point)):
            calls.append(found)
    return calls


@functools.lru_cache(maxsize=4096)
def contract_note(task: Task) -> str | None:
    """One or two sentences on arguments and result; None when nothing is known of either.

    For example ``"The function `f` takes 2 arguments: a list of integers and an integer. It returns an
    integer."``
    """
    calls = visible_calls(task)
    names, annotations, returns = _signature(task)
    count = len(names) or max((len(c.arguments) for c in calls), default=0)
    if not count:
        return None
    phrases = []
    for i in range(count):
        kind = _common(kind_of(c.arguments[i]) for c in calls if i < len(c.arguments))
        kind = kind or (f"`{annotations[i]}`" if i < len(annotations) and annotations[i] else "")
        name = f"`{names[i]}`" if names else ""
        phrases.append(f"{name} ({kind})" if name and kind else name or kind)
    listed = f": {_listed(phrases)}" if all(phrases) else ""
    note = f"The function `{task.entry_point}` takes {count} argument{'' if count == 1 else 's'}{listed}."
    result = _common(_result(c) for c in calls) or (f"`{returns}`" if returns else "")
    return f"{note} It returns {result}." if result else note


@functools.lru_cache(maxsize=4096)
def edge_case_note(task: Task) -> str:
    """A sentence that names the edge cases of the visible arguments' types, six at most."""
    cases: list[str] = []
    for value in [value for call in visible_calls(task)[:1] for value in call.arguments]:
        if isinstance(value, str):
            cases += ["an empty string", "a single character", "upper and lower case"]
        elif isinstance(value, list | tuple):
            cases += [f"an empty {_container(value)}", "a single element", "repeated elements"]
        elif isinstance(value, set | frozenset | dict):
            cases += [f"an empty {_container(value)}", "a single element"]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            cases += ["zero", "negative numbers", "large numbers"]
    cases = list(dict.fromkeys(cases))[:6] or ["empty inputs", "the smallest inputs", "unusual values"]
    return f"Take care of edge cases: {_listed(cases)}."


def kind_of(value: Any) -> str:
    """``"a list of integers"`` and the like; ``""`` for an unknown value."""
    if value is UNKNOWN:
        return ""
    if value is None:
        return "None"
    if isinstance(value, list | tuple | set | frozenset | dict):
        return f"a {_container(value)}{_of(value)}"
    singular, _ = _scalar(value)
    return singular


# --- reading ---------------------------------------------------------------------------------------


def _from_test(test: ast.expr, entry_point: str) -> VisibleCall | None:
    """Arguments and wanted value of ``f(x) == y``, ``set(f(x)) == set(y)``, ``f(x)``, ``not f(x)``, ``f(x) is y``."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        found = _call(test.operand, entry_point)
        return VisibleCall(found[0], False, "") if found and not found[1] else None
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and test.func.attr == "isclose":
        found = _call(test.args[0], entry_point) if test.args else None
        return VisibleCall(found[0], 0.0, "") if found else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        found = _call(test.left, entry_point)
        return VisibleCall(found[0], _value(test.comparators[0]), found[1]) if found else None
    found = _call(test, entry_point)
    return VisibleCall(found[0], True, "") if found and not found[1] else None


def _call(node: ast.expr, entry_point: str) -> tuple[tuple[Any, ...], str] | None:
    """Arguments of ``f(…)`` or ``wrapper(f(…))``, and the wrapper's name."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    if node.func.id == entry_point:
        return tuple(_value(a) for a in node.args), ""
    if len(node.args) == 1 and (inner := _call(node.args[0], entry_point)) and not inner[1]:
        return inner[0], node.func.id
    return None


def _value(node: ast.expr) -> Any:
    """The literal that `node` is, also ``set([…])`` and ``tuple((…))``; else `UNKNOWN`."""
    constructors: dict[str, Callable[..., Any]] = {
        "set": set,
        "frozenset": frozenset,
        "tuple": tuple,
        "list": list,
        "dict": dict,
        "sorted": sorted,
    }
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in constructors:
            return constructors[node.func.id](*(ast.literal_eval(a) for a in node.args))
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def _signature(task: Task) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Parameter names, their annotations and that of the result, where the prompt has a signature."""
    tree = parsed(task.prompt)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == task.entry_point:
            annotations = tuple(ast.unparse(a.annotation) if a.annotation else "" for a in node.args.args)
            return tuple(a.arg for a in node.args.args), annotations, ast.unparse(node.returns) if node.returns else ""
    return (), (), ""


# --- wording ---------------------------------------------------------------------------------------


def _common(kinds: Iterable[str]) -> str:
    """What several calls agree on: ``"a list"`` gives way to ``"a list of integers"``; ``""`` if they differ."""
    known = set(kinds)
    specific = {k for k in known if not any(other != k and other.startswith(k) for other in known)} - {""}
    if "None" in specific and len(specific) == 2:
        return f"{(specific - {'None'}).pop()} or None"
    return specific.pop() if len(specific) == 1 and "" not in known else ""


def _result(call: VisibleCall) -> str:
    if call.result is UNKNOWN:
        return ""
    if call.wrapper in ("set", "sorted", "frozenset"):
        return f"a collection{_of(call.result)}, compared without regard to order"
    return kind_of(call.result) if not call.wrapper else ""


def _of(value: Any) -> str:
    """``" of integers"`` for a homogeneous collection, else ``""``."""
    if isinstance(value, dict):
        keys, values = _plural(list(value)), _plural(list(value.values()))
        return f" from {keys} to {values}" if keys and values else ""
    plural = _plural(list(value)) if isinstance(value, list | tuple | set | frozenset) else ""
    return f" of {plural}" if plural else ""


def _plural(values: Sequence[Any]) -> str:
    """What all of `values` are, in the plural; ``""`` for none or a mixture."""
    kinds = {type(v) for v in values}
    if kinds == {int, float}:
        return "numbers"
    if len(kinds) != 1:
        return ""
    first = values[0]
    if isinstance(first, list | tuple | set | frozenset | dict):
        name = {"dictionary": "dictionaries"}.get(_container(first), f"{_container(first)}s")
        inner = {_of(v) for v in values}
        return f"{name}{inner.pop()}" if len(inner) == 1 else name
    return _scalar(first)[1]


def _container(value: Any) -> str:
    names: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "set", dict: "dictionary"}
    return names[type(value)]


def _scalar(value: Any) -> tuple[str, str]:
    """Name of a scalar's type in singular and plural."""
    names: dict[type, tuple[str, str]] = {
        bool: ("a boolean (True or False)", "booleans"),
        int: ("an integer", "integers"),
        float: ("a float", "floats"),
        complex: ("a complex number", "complex numbers"),
        str: ("a string", "strings"),
        bytes: ("a bytes object", "bytes objects"),
    }
    return names.get(type(value), ("", ""))


def _listed(items: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
