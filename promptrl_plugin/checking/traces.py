"""Whether running a program can change the interpreter beyond the program's own names.

EvalPlus runs each group of tests in a process of its own. A program that certainly leaves no trace outside of
its namespace behaves the same in a process that ran it before, with a new namespace; so its groups may share one.
This is about honest programs and equal verdicts; isolation does not rest on it.
"""

from __future__ import annotations

import builtins
from opcode import EXTENDED_ARG, opmap
from types import CodeType

__all__ = ["leaves_no_trace"]

# Runs beside foreign code, though before it; see `codec`.
globals()["__builtins__"] = dict(vars(builtins))

#: Modules without state that a program could change, other than by setting an attribute.
_STATELESS = frozenset({
    "abc", "bisect", "cmath", "collections", "copy", "datetime", "enum", "fractions", "functools", "heapq",
    "itertools", "math", "numbers", "operator", "re", "statistics", "string", "typing",
})  # fmt: skip
#: Names by which a program reaches what this module does not see.
_DYNAMIC = frozenset({
    "__builtins__", "__delattr__", "__dict__", "__globals__", "__import__", "__setattr__", "compile", "delattr",
    "eval", "exec", "getattr", "globals", "modules", "setattr", "vars",
})  # fmt: skip
_IMPORT, _STORE_ATTR, _DELETE_ATTR = opmap["IMPORT_NAME"], opmap["STORE_ATTR"], opmap["DELETE_ATTR"]


def leaves_no_trace(code: CodeType) -> bool:
    """Whether a compiled program only imports stateless modules, sets no attribute if it imports any, and
    uses nothing dynamic. False in doubt.
    """
    imports = sets_attributes = False
    waiting = [code]
    while waiting:
        part = waiting.pop()
        if not _DYNAMIC.isdisjoint(part.co_names):
            return False
        operations = part.co_code[::2]
        if _IMPORT in operations:
            imports = True
            if not _STATELESS.issuperset(_imported(part)):
                return False
        sets_attributes = sets_attributes or _STORE_ATTR in operations or _DELETE_ATTR in operations
        waiting += [c for c in part.co_consts if isinstance(c, CodeType)]
    return not (imports and sets_attributes)


def _imported(code: CodeType) -> set[str]:
    """Modules that the code's import statements name, those in packages with their package."""
    names, extended = set(), 0
    for at in range(0, len(code.co_code), 2):
        operation, argument = code.co_code[at], code.co_code[at + 1] | extended
        extended = argument << 8 if operation == EXTENDED_ARG else 0
        if operation == _IMPORT:
            names.add(code.co_names[argument])
    return names
