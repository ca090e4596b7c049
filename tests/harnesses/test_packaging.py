"""What a wheel and an editable install hold: without the start-up file the hook is silently missing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from promptrl_plugin.harnesses.lm_eval import TASK_NAMES, tasks_folder

ROOT = Path(__file__).parents[2]
HOOK = "import promptrl_plugin._bootstrap; promptrl_plugin._bootstrap.install()\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_starts_the_hook(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("promptrl_plugin.pth").decode() == HOOK
    assert wheel.read("promptrl_plugin.start").decode() == "promptrl_plugin._bootstrap:install\n"  # PEP 829


def test_wheel_holds_the_tasks_once(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {f"promptrl_plugin/_tasks/{task}.yaml" for task in TASK_NAMES} <= set(names)
    assert "promptrl_plugin/_tasks/promptrl_tasks.py" in names
    top = {name.split("/")[0] for name in names}
    assert {n for n in top if not n.endswith(".dist-info")} == {
        "promptrl_plugin",
        "promptrl_plugin.pth",
        "promptrl_plugin.start",
    }


def test_wheel_holds_data_licence_and_entry_points(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(n.endswith("suites/data/starter.jsonl") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    entry_points = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "[lm_eval.tasks]\npromptrl = promptrl_plugin._tasks" in entry_points
    assert "promptrl = promptrl_plugin.cli.main:main" in entry_points


def test_this_installation_has_the_start_up_file() -> None:
    files = {str(f) for f in importlib.metadata.files("promptrl-plugin") or []}
    assert {"promptrl_plugin.pth", "promptrl_plugin.start"} <= files


def test_tasks_folder_of_this_installation() -> None:
    assert {p.stem for p in tasks_folder().glob("*.yaml")} == TASK_NAMES
