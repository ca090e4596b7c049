"""``promptrl doctor``: what this machine offers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from rich.table import Table

from promptrl_plugin._bootstrap import Finder
from promptrl_plugin.cli.console import console, print_whole
from promptrl_plugin.config import cache_dir

__all__ = ["doctor"]

_PACKAGES = ("promptrl-plugin", "evalplus", "lm-eval", "torch", "transformers", "sentence-transformers", "gymnasium")


def doctor() -> None:
    """Show versions, the cache folder, the harness hook, and which isolation layers the judge has here."""
    from promptrl_plugin.checking.isolation import probe

    console.print(
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores", highlight=False
    )
    for name in _PACKAGES:
        try:
            console.print(f"{name} {importlib.metadata.version(name)}", highlight=False)
        except importlib.metadata.PackageNotFoundError:
            console.print(f"{name} is not installed; pip install {name}", highlight=False)
    console.print(f"cache: {cache_dir()}", highlight=False, soft_wrap=True)
    console.print(f"harness hook: {_hook()}", highlight=False, soft_wrap=True)
    table = Table("isolation layer", "available", "why not")
    for layer, available, reason in probe():
        table.add_row(layer, "yes" if available else "no", reason)
    print_whole(table)


def _hook() -> str:
    """Whether the harnesses would be extended in a Python that is started as this one, and if not, why."""
    if os.environ.get("PROMPTRL_NO_HOOK", "0") not in ("", "0"):
        return "off (PROMPTRL_NO_HOOK is set)"
    if any(type(finder) is Finder for finder in sys.meta_path):
        return "on"
    return (
        "off (Python read no promptrl_plugin.pth at its start); do not run it with -S, and install with "
        "`pip install promptrl-plugin`, not into a --target folder"
    )
