"""Progress where there is no terminal: plain lines, not too many."""

from __future__ import annotations

import pytest

from promptrl_plugin.cli import console


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_training_tells_its_stage_and_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.TrainProgress() as progress:
        progress.stage("survey", 10)
        for _ in range(4):
            now[0] += 10
            progress.advance(1)
            progress.generation()
        assert lines(capsys) == ["survey …", "survey 4/10: 4 generations, 0.1/s"], "one line in half a minute"
        progress.stage("validate")
        now[0] += 40
        progress.generation()
        assert lines(capsys) == ["validate …", "validate: 5 generations, 0.1/s"]


def test_solving_tells_its_tasks_and_its_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.GenerationProgress("best-of-k", 7) as progress:
        for _ in range(7):
            now[0] += 8
            progress.generation()
            progress.sample()
    assert lines(capsys) == ["best-of-k: 3/7 tasks, 4 generations, 0.1/s"]
