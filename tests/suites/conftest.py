"""Small data files in the benchmarks' formats, and the real ones where they are at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from suite_rows import WriteRows


@pytest.fixture
def write_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteRows:
    """Write rows as JSON Lines and point an environment variable at them."""

    def write(variable: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        path = tmp_path / f"{variable.lower()}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setenv(variable, str(path))
        return path

    return write


@pytest.fixture
def shared_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the real data, with every override variable pointing into it."""
    folder = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"
    files = {
        "MBPP_OVERRIDE_PATH": folder / "MbppPlus.jsonl.gz",
        "HUMANEVAL_OVERRIDE_PATH": folder / "HumanEvalPlus-first20.jsonl.gz",
        "PROMPTRL_MBPP_PATH": folder / "mbpp.jsonl",
    }
    if missing := [path.name for path in files.values() if not path.exists()]:
        pytest.skip(f"no {missing[0]} in ../shared/data (or $PROMPTRL_SHARED/data)")
    for variable, path in files.items():
        monkeypatch.setenv(variable, str(path))
    return folder
