"""What programs find in the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from promptrl_plugin.checking.guard import imports_others


@pytest.mark.parametrize(
    ("program", "others"),
    [
        ("x = 1", False),
        ("import math as m, re\nfrom typing import List, Tuple\nimport collections.abc", False),
        ('"""Take the numbers from the list."""', False),
        ("import numpy as np", True),
        ("def f():\n    import os, pandas", True),
        ("from scipy.stats import norm", True),
        ("__import__('numpy')", True),
        ("import importlib", True),
    ],
)
def test_imports_outside_of_the_standard_library_are_seen(program: str, others: bool) -> None:
    assert imports_others(program) is others


def test_numpy_is_imported_under_the_guard_and_the_guard_is_back() -> None:
    code = (
        "import builtins, os, subprocess, sys\n"
        "from promptrl_plugin.checking.guard import ReliabilityGuard\n"
        "guard = ReliabilityGuard()\n"
        "assert 'numpy' not in sys.modules\n"
        "for _ in range(2):\n"
        "    guard.import_numpy()\n"
        "    assert sys.modules['numpy'].arange(3).sum() == 3\n"
        "    assert (builtins.open, os.kill, os.unlink, subprocess.Popen) == (None,) * 4\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})
