"""Runs at every start of the interpreter: arranges for the harnesses to be extended when they are imported.

`promptrl_plugin.pth` (and, from Python 3.18 on, `promptrl_plugin.start`, PEP 829) calls `install`. It puts
one finder in front of `sys.meta_path`, which does nothing until a module of a harness is imported; only
then is `promptrl_plugin.harnesses.autoload` loaded. A program that imports neither harness pays about
0.3 ms. ``PROMPTRL_NO_HOOK=1`` switches all of it off.

Nothing here may import anything but `sys`, `os` and what the interpreter has loaded anyway, and nothing
may raise: an error would be printed at the start of every Python program of the environment.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` itself would cost more than all of this module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["TARGETS", "Finder", "install"]

#: Modules that are extended after they have been imported (`autoload.extend`).
TARGETS = frozenset(
    {
        "evalplus.codegen",
        "evalplus.evaluate",
        "lm_eval.__main__",
        "lm_eval.evaluator",
        "lm_eval.tasks",
    }
)


class Finder:
    """Meta path finder that finds nothing itself, but wraps the loaders of `TARGETS`."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec that the other finders give, its loader wrapped; None for all other modules."""
        if name not in TARGETS or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = _others(self, name, path, target)
            if spec is not None:
                from promptrl_plugin.harnesses.autoload import wrap

                wrap(spec)
            return spec
        except Exception as e:
            _warn(e)
            return None  # the other finders are asked again, and the harness works as released
        finally:
            self._busy.discard(name)


def install() -> None:
    """Put the finder in front; does nothing when switched off or already there. Never raises."""
    try:
        if os.environ.get("PROMPTRL_NO_HOOK", "0") not in ("", "0"):
            return
        finders: list[Any] = sys.meta_path
        if not any(type(finder) is Finder for finder in finders):
            finders.insert(0, Finder())
    except Exception as e:
        _warn(e)


def _others(own: Finder, name: str, path: Any, target: Any) -> Any:
    finders: list[Any] = sys.meta_path
    for finder in finders:
        find_spec = getattr(finder, "find_spec", None)
        if finder is own or find_spec is None:
            continue
        spec = find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


def _warn(error: Exception) -> None:
    """One line, on request: a broken hook must not disturb programs that have nothing to do with it."""
    if os.environ.get("PROMPTRL_DEBUG") and sys.stderr is not None:
        sys.stderr.write(f"promptrl: hook failed: {type(error).__name__}: {error}\n")
