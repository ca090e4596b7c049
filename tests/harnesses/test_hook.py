"""The hook, in interpreters of their own: cheap, silent, and able to be switched off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptrl_plugin import _bootstrap


def python(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, timeout=60
    )


def test_start_up_file_installs_the_hook_and_loads_nothing_else() -> None:
    code = "import sys; print(type(sys.meta_path[0]).__name__, sorted(m for m in sys.modules if 'promptrl' in m))"
    assert python(code).stdout.strip() == "Finder ['promptrl_plugin', 'promptrl_plugin._bootstrap']"


@pytest.mark.parametrize(("value", "on"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_switch(value: str, on: bool) -> None:
    code = "import sys; print(any('promptrl' in type(f).__module__ for f in sys.meta_path))"
    assert python(code, PROMPTRL_NO_HOOK=value).stdout.strip() == str(on)


def test_bootstrap_imports_nothing_but_sys_and_os() -> None:
    code = (
        "import os, sys; before = set(sys.modules)\n"
        "import promptrl_plugin._bootstrap as b; b.install()\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert python(code, "-S", PYTHONPATH=str(Path(_bootstrap.__file__).parents[1])).stdout.strip() == (
        "['__future__', 'promptrl_plugin', 'promptrl_plugin._bootstrap']"
    )


def test_install_is_cheap_and_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f) is not _bootstrap.Finder])
    start = time.perf_counter()
    for _ in range(100):
        _bootstrap.install()
    assert (time.perf_counter() - start) / 100 < 1e-3
    assert sum(type(f) is _bootstrap.Finder for f in sys.meta_path) == 1


def test_a_broken_extension_leaves_the_harness_as_it_was() -> None:
    code = (
        "import promptrl_plugin.harnesses.autoload as a\n"
        "def broken(name): raise RuntimeError('moved')\n"
        "a._extension = broken\n"
        "import evalplus.codegen as c; print(c.run_codegen.__module__, hasattr(c.run_codegen, '__wrapped__'))"
    )
    done = python(code)
    assert done.stdout.strip() == "evalplus.codegen False"
    assert done.stderr.strip().startswith("promptrl: cannot extend evalplus.codegen (RuntimeError: moved)")


def test_a_broken_finder_leaves_the_import_to_the_others() -> None:
    code = (
        "import sys, promptrl_plugin._bootstrap as b\n"
        "sys.modules['promptrl_plugin.harnesses.autoload'] = None\n"
        "import evalplus.codegen as c; print(hasattr(c.run_codegen, '__wrapped__'))"
    )
    done = python(code)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_without_a_strategy_the_harness_runs_its_own_code_and_loads_nothing_of_ours() -> None:
    code = (
        "import sys; sys.argv = ['evalplus.codegen']\n"
        "import evalplus.codegen as c, inspect\n"
        "ours, own = map(inspect.signature, (c.run_codegen, c.run_codegen.__wrapped__)); print(ours == own)\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'torch' or m.startswith('promptrl_plugin.strategies')])"
    )
    assert python(code).stdout.split("\n")[:2] == ["True", "[]"]


@pytest.mark.parametrize(
    "args",
    [
        ["evalplus.codegen", "--nonsense", "1"],
        ["evalplus.codegen", "--model", "m", "--dataset", "no"],
        ["evalplus.evaluate", "--dataset", "mbpp", "-s", "nowhere.txt"],
    ],
)
def test_output_without_a_strategy_is_byte_identical(args: list[str], tmp_path: Path) -> None:
    """Errors of EvalPlus's own come out as they do without the hook; ``-s`` still is short for ``--samples``."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PROMPTRL_NO_HOOK": off, "PAGER": "cat"},
            cwd=tmp_path,
        )
        for off in ("0", "1")
    ]
    (out, err), (out_plain, err_plain) = (run.communicate(timeout=120) for run in runs)
    assert (runs[0].returncode, out) == (runs[1].returncode, out_plain)
    assert err.splitlines()[-1:] == err_plain.splitlines()[-1:]  # above it, tracebacks name the wrapper
