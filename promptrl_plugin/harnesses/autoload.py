"""Extends the modules of the harnesses as they are imported (called by `promptrl_plugin._bootstrap`).

Each extension is one function that gets the freshly executed module. If it fails, because a later release
of a harness has moved things, the harness goes on as released and one line on stderr says what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

__all__ = ["extend", "main_line", "wrap"]

#: Modules that ``python -m`` runs, with the function that their last lines call.
_MAINS = {
    "evalplus.codegen": "main",
    "evalplus.evaluate": "main",
    "lm_eval.__main__": "cli_evaluate",
}


def wrap(spec: ModuleSpec) -> None:
    """Make `spec`'s loader extend the module after executing it, and ``python -m`` run the extended one.

    The loader is wrapped on the instance, and not replaced, because `runpy`, `inspect` and `pkgutil` look
    for its other methods.
    """
    loader: Any = spec.loader
    if not hasattr(loader, "get_code"):
        return
    exec_module, get_code = loader.exec_module, loader.get_code
    importing = False

    def exec_and_extend(module: ModuleType) -> None:
        nonlocal importing
        importing = True
        try:
            exec_module(module)
        finally:
            importing = False
        extend(module)

    def get_code_of_main(name: str) -> CodeType | None:
        # `python -m evalplus.codegen` executes the file as `__main__`, where no extension can reach it; give
        # runpy a line that imports the module (extended) and calls the same function instead.
        if not importing and name in _MAINS and _is_located_by_runpy() and _concerns_us(name, sys.argv):
            return compile(main_line(name), spec.origin or name, "exec")
        code: CodeType | None = get_code(name)
        return code

    loader.exec_module = exec_and_extend
    loader.get_code = get_code_of_main


def main_line(name: str) -> str:
    """The program that stands for ``python -m name``."""
    return f"if __name__ == '__main__':\n    from {name} import {_MAINS[name]}\n    {_MAINS[name]}()\n"


def extend(module: ModuleType) -> None:
    """Extend a module of a harness; never raises."""
    try:
        _extension(module.__name__)(module)
    except Exception as e:
        sys.stderr.write(
            f"promptrl: cannot extend {module.__name__} ({type(e).__name__}: {e}); it works as released. "
            "Supported: evalplus 0.3.1, lm-eval 0.4.9 to 0.4.13\n"
        )


def _extension(name: str) -> Callable[[ModuleType], None]:
    if name.startswith("evalplus."):
        from promptrl_plugin.harnesses import evalplus

        return evalplus.extend_codegen if name == "evalplus.codegen" else evalplus.extend_evaluate
    from promptrl_plugin.harnesses import lm_eval

    return {
        "lm_eval.tasks": lm_eval.extend_tasks,
        "lm_eval.evaluator": lm_eval.extend_evaluator,
        "lm_eval.__main__": lm_eval.extend_main,
    }[name]


def _is_located_by_runpy() -> bool:
    return bool(sys.argv) and sys.argv[0] == "-m"  # documented: "-m" while the module is being located


def _concerns_us(name: str, argv: list[str]) -> bool:
    """Whether a command line needs the extension; all others run the harness's own file."""
    if name == "lm_eval.__main__":
        return True
    from promptrl_plugin.harnesses.evalplus import concerns_us

    return concerns_us(argv[1:])
