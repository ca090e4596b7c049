"""Programs in APPS's two forms, as functions that the runner can call. Foreign code runs here; see `runner`.

A script is a function from its standard input to what it prints. It gets real files as standard input and output,
as under a contest's judge, so that ``sys.stdin.buffer``, ``open(0)`` and ``os.read(0, …)`` work.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import contextlib
import gc
import io
import posix
import sys
from types import CodeType
from typing import Any

__all__ = ["PRELUDE", "Script", "compile_script", "find_function"]

# The program may replace builtins; the functions of this module keep their own.
globals()["__builtins__"] = dict(vars(builtins))

#: What ``eval/testing_util.py`` of APPS puts before every program; its ``import numpy as np`` only where it is used
#: (see `pairs`). The last line is ours: when APPS was made, Python printed integers of any length.
PRELUDE = """\
import sys
import time
import itertools
from itertools import accumulate, product, permutations, combinations
import collections
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
import math
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
import fractions
from typing import List, Tuple
import random
import heapq
from heapq import *
sys.set_int_max_str_digits(0)
"""
_NAME = "standard-file"
_FLAGS = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL
_CHUNK = 1 << 20
_open, _close, _dup, _dup2, _unlink = posix.open, posix.close, posix.dup, posix.dup2, posix.unlink
_collect = gc.collect
_lseek, _read, _write = posix.lseek, posix.read, posix.write


def find_function(program: str, namespace: dict[str, Any], name: str) -> Any:
    """The function of a program that has run, or the method of its class ``Solution`` where it has one.

    Raises:
        KeyError: It has none of that name.
    """
    if "class Solution" not in program:
        return namespace[name]
    solution = namespace["Solution"]()
    if not hasattr(solution, name):
        raise KeyError(name)
    return getattr(solution, name)


def compile_script(program: str) -> CodeType:
    """Compile a script in which ``return`` may stand outside of functions, where it ends the script.

    APPS runs scripts inside of a function, and many of its solutions rely on that.

    Raises:
        SyntaxError: It is not Python.
    """
    tree = ast.parse(program, "<string>")
    return compile(_Returns().visit(tree), "<string>", "exec", dont_inherit=True)


class _Returns(ast.NodeTransformer):
    """Puts an exit in the place of every ``return`` outside of functions."""

    def visit_Return(self, node: ast.Return) -> Any:
        leave = ast.Raise(ast.Name("SystemExit", ast.Load()), None)
        body: list[ast.stmt] = [leave] if node.value is None else [ast.Expr(node.value), leave]
        return [ast.fix_missing_locations(ast.copy_location(statement, node)) for statement in body]

    def _leave_alone(self, node: Any) -> Any:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _leave_alone


class Script:
    """A whole program as a function: text of standard input in, text of standard output out.

    Args:
        code: The compiled program.
        names: What it finds defined; each call runs in a copy.
    """

    def __init__(self, code: CodeType, names: dict[str, Any]) -> None:
        self._code = code
        self._names = names

    def __call__(self, text: str) -> str:
        """Run it once. What it raises passes through, but for an exit, which is an orderly end.

        Raises:
            OSError: The scratch folder cannot be written to.
        """
        _collect()  # what the last run left open must close before the files are others
        _close(_onto(0, text.encode("utf-8", "surrogatepass")))
        printed = _onto(1, b"")
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), encoding="utf-8")
        sys.stdout = own = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), encoding="utf-8")
        names = {**self._names, "__name__": "__main__", "exit": _exit, "quit": _exit}
        try:
            with contextlib.suppress(SystemExit):
                exec(self._code, names)
            _wait_for_threads()
            atexit._run_exitfuncs()
            for stream in (sys.stdout, own):  # it may have put its own in place
                if not getattr(stream, "closed", False):
                    stream.flush()
            names.clear()
            _collect()  # of its own files on standard output
            return _content(printed).decode("utf-8", "replace")
        finally:
            atexit._clear()
            names.clear()
            with contextlib.suppress(ValueError, OSError):  # else it would be flushed when collected, to the next file
                own.flush()
            _close(printed)


def _exit(*args: Any) -> None:
    raise SystemExit(*args)


def _wait_for_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is None:
        return
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()


def _onto(fd: int, content: bytes) -> int:
    """Make a new, nameless file of the scratch folder the process's file `fd`; another descriptor of it."""
    made = _open(_NAME, _FLAGS, 0o600)
    _unlink(_NAME)
    view = memoryview(content)
    while view:
        view = view[_write(made, view) :]
    _lseek(made, 0, 0)
    if made == fd:  # the program had closed it
        return _dup(made)
    _dup2(made, fd)
    return made


def _content(fd: int) -> bytes:
    _lseek(fd, 0, 0)
    parts = []
    while part := _read(fd, _CHUNK):
        parts.append(part)
    return b"".join(parts)
