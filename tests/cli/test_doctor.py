"""`promptrl doctor` names every isolation layer, and what is missing."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin._bootstrap import Finder
from promptrl_plugin.checking import isolation, namespaces
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.cli import main as cli
from promptrl_plugin.config import JudgeConfig


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["promptrl", "doctor"])


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Availability and reason by layer, as `doctor` prints them."""
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line]
    return {name: (available, reason) for name, available, reason in cells}


def test_it_reports_the_layers_that_the_judge_uses(capsys: pytest.CaptureFixture[str]) -> None:
    reported = rows(capsys)
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        layers = judge.layers()
    assert reported == {name: ("yes" if active else "no", why) for name, active, why in layers}
    for layer in ("resource limits", "network namespace", "read-only file system", "Landlock", "seccomp"):
        assert layer in reported


def test_it_says_what_is_missing_and_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    why = "operation not permitted; user namespace: no space left on device"
    monkeypatch.setattr(namespaces, "unshare", lambda: dict.fromkeys(namespaces.NAMESPACES, why))
    monkeypatch.setattr(isolation, "LandlockRules", refused)
    monkeypatch.setattr(isolation.SeccompFilter, "install", refused)
    reported = rows(capsys)
    missing = {name: reason for name, (available, reason) in reported.items() if available == "no"}
    assert missing.pop("Landlock") == missing.pop("seccomp") == "function not implemented"
    assert missing.pop("read-only file system") == missing.pop("bounded scratch") == "needs the mount namespace"
    assert missing == {f"{name} namespace": why for name in ("PID", "network", "mount", "IPC", "UTS")}
    assert reported["resource limits"] == ("yes", "")


def test_a_probe_that_dies_is_not_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_probe", lambda *_: os._exit(1))
    assert rows(capsys) == {"every layer": ("no", "the process that tried them died")}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main()
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("harness hook"))


def test_the_hook_is_on_only_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    others = [finder for finder in sys.meta_path if type(finder) is not Finder]
    monkeypatch.delenv("PROMPTRL_NO_HOOK", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *others])
    assert told(capsys) == "harness hook: on"
    monkeypatch.setattr(sys, "meta_path", others)  # as under `python -S`
    assert "off (Python read no promptrl_plugin.pth" in told(capsys)
    monkeypatch.setenv("PROMPTRL_NO_HOOK", "1")
    assert told(capsys) == "harness hook: off (PROMPTRL_NO_HOOK is set)"
