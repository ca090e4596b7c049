from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import harness_doubles as doubles
import pytest

from promptrl_plugin.errors import PromptrlError, UserError
from promptrl_plugin.harnesses import session, worker

FLAGS = {"dataset": "mbpp", "model": "m", "backend": "hf", "dtype": "auto", "strategy": "direct"}


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("kill -9 $$", UserError, "killed by signal 9"),
        ("exit 1", PromptrlError, "exit code 1"),
        ("""echo '{"error": "no such model"}' > "$5\"""", UserError, "no such model"),
    ],
)
def test_how_the_child_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, error: type[Exception], part: str
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", text))
    with pytest.raises(error, match=part) as caught:
        worker.solve_apart(FLAGS)
    assert isinstance(caught.value, UserError) is (error is UserError)


def test_request_and_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def run(options: Any, _listener: Any) -> Path:
        seen.append(options)
        return tmp_path / "samples.jsonl"

    monkeypatch.setattr(session, "run", run)
    request, outcome = tmp_path / "request.json", tmp_path / "outcome.json"
    request.write_text(json.dumps({**FLAGS, "id_range": [0, 9], "policy": None}))
    monkeypatch.setattr(sys, "argv", ["worker", str(request), str(outcome)])
    worker.main()
    assert json.loads(outcome.read_text()) == {"samples": str(tmp_path / "samples.jsonl")}
    assert (seen[0].strategy.strategy, seen[0].id_range, seen[0].backbone.model) == ("direct", (0, 9), "m")


def test_an_error_names_the_flags_of_evalplus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    request, outcome = tmp_path / "request.json", tmp_path / "outcome.json"
    flags = {**FLAGS, "backend": "ollama", "base_url": "http://127.0.0.1:9/v1"}
    request.write_text(json.dumps(flags))
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(doubles.write_override(tmp_path / "mbpp.jsonl")))
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["worker", str(request), str(outcome)])
    worker.main()
    error = json.loads(outcome.read_text())["error"]
    assert "`ollama serve`" in error
    assert "--base_url or OLLAMA_HOST" in error
    assert "--base-url" not in error


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*_args: Any) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(session, "run", run)
    (tmp_path / "request.json").write_text(json.dumps(FLAGS))
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "request.json"), str(tmp_path / "outcome.json")])
    with pytest.raises(ZeroDivisionError):
        worker.main()
    assert not (tmp_path / "outcome.json").exists()
