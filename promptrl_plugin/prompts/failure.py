"""What the failure of a visible test says about the program that was wanted, in words.

Read off the text of the failure (`GroupVerdict.detail`) and the visible tests; nothing is executed or guessed.
"""

from __future__ import annotations

import ast
import re
import sys

from promptrl_plugin.parsing import retried
from promptrl_plugin.prompts.contract import UNKNOWN, kind_of, visible_calls
from promptrl_plugin.records import FailureKind, GroupVerdict, Task

__all__ = ["failure_note"]

_RETURNED = re.compile(r" returned (?P<got>.*?)(?:, expected (?P<wanted>.*))?$", re.DOTALL)
_UNDEFINED = re.compile(r"'?(\w+)'? is not defined")
_ARITY = re.compile(r"(\w+)\(\) (?:takes .* positional arguments? but|missing) \d+ ")
_BRACKETS = {"[": "a list", "(": "a tuple"}


def failure_note(task: Task, verdict: GroupVerdict) -> str | None:
    """A sentence on what went wrong that a prompt can mend; None where the failure shows nothing of the kind.

    That is: a result of another type than the test wants (``"Return a tuple of integers, not a list of
    integers."``), a module that is used and not imported, a function of another name, or of other parameters.
    A wrong value of the right type is not; nor is a result of a type that nothing is known of.
    """
    if verdict.failure is FailureKind.WRONG_VALUE:
        return _type_note(task, verdict.detail)
    if verdict.failure is FailureKind.NAME:
        return _name_note(task, verdict.detail)
    return _arity_note(task, verdict.detail) if verdict.failure is FailureKind.EXCEPTION else None


def _name_note(task: Task, detail: str) -> str | None:
    found = _UNDEFINED.search(detail)
    name = found and found[1]
    if name in sys.stdlib_module_names:
        return f"Import the module `{name}`."
    return f"The function must be named `{name}`." if name and name == task.entry_point else None


def _arity_note(task: Task, detail: str) -> str | None:
    found = _ARITY.search(detail)
    counts = {len(call.arguments) for call in visible_calls(task)}
    if found is None or found[1] != task.entry_point or len(counts) != 1:  # some other function was called wrongly
        return None
    count = counts.pop()
    return f"The function must take {count} argument{'' if count == 1 else 's'}."


def _type_note(task: Task, detail: str) -> str | None:
    found = _RETURNED.search(detail)
    if found is None or any(call.wrapper for call in visible_calls(task)):  # a wrapper hides the type
        return None
    got = _kind_of_text(found["got"])
    wanted = _kind_of_text(found["wanted"] or "") or next((kind_of(c.result) for c in visible_calls(task)), "")
    if not wanted or not got or wanted.startswith(got) or got.startswith(wanted):  # of an empty list less is known
        return None
    return f"Return {wanted}, not {got}."


def _kind_of_text(value: str) -> str:
    """What a value's abbreviated repr shows of its type; ``""`` for nothing."""
    try:
        return kind_of(_without_ellipsis(retried(lambda: ast.literal_eval(value.strip()))))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _BRACKETS.get(value.strip()[:1], "")


def _without_ellipsis(value: object) -> object:
    """A value without what stands for the rest of it."""
    if isinstance(value, list | tuple | set):
        return type(value)(_without_ellipsis(v) for v in value if v is not ...)
    return UNKNOWN if value is ... else value
