"""What programs find: the modules that they usually import are there, what EvalPlus takes away is gone.

Set up once in the zygote and inherited by every child.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

__all__ = ["ReliabilityGuard", "imports_others", "preload"]

_USUAL = (
    "array", "bisect", "calendar", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools",
    "heapq", "itertools", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string",
    "typing",
)  # fmt: skip
_IMPORTS = re.compile(r"\bfrom\s+(\w+)[\w.]*\s+import\b|\bimport\s+([\w., ]+)")


def preload() -> None:
    """Import what programs usually import, once instead of in every child."""
    for name in _USUAL:
        importlib.import_module(name)


def imports_others(program: str) -> bool:
    """Whether a program may import modules outside of the standard library; its text decides, true in doubt."""
    listed = ",".join(plain or several for plain, several in _IMPORTS.findall(program)).split(",")
    names = {name.split()[0].split(".")[0] for name in listed if name.strip()}
    return not names <= sys.stdlib_module_names or "__import__" in program or "importlib" in program


class ReliabilityGuard:
    """EvalPlus's `reliability_guard`, in force from the start, but for a moment where numpy has to be imported."""

    def __init__(self) -> None:
        self._apply = _reliability_guard()
        touched: tuple[ModuleType, ...] = (builtins, os, shutil, subprocess)
        self._before = [(module, dict(vars(module))) for module in touched]
        self._apply()

    def import_numpy(self) -> None:
        """Import numpy, without which no package outside of the standard library loads once the guard is up.

        EvalPlus's checker has it loaded from the start. Here it waits until a program may want it: each fork
        costs with what is in the process.
        """
        if "numpy" in sys.modules:
            return
        for module, before in self._before:
            vars(module).update(before)
        importlib.import_module("numpy")
        self._apply()


def _reliability_guard() -> Callable[[], None]:
    # The file alone: its package imports numpy.
    package = importlib.util.find_spec("evalplus")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = f"{package.submodule_search_locations[0]}/eval/utils.py"
    spec = importlib.util.spec_from_file_location("evalplus_guard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    guard: Callable[[], None] = module.reliability_guard
    return guard
