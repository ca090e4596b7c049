from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from promptrl_plugin.config import TrainConfig, from_dict
from promptrl_plugin.errors import ConfigError, UserError
from promptrl_plugin.storage.runs import RunFolder, environment, write_atomic, write_json


def test_a_run_holds_its_resolved_configuration(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "run", TrainConfig(seed=3))
    again = RunFolder.open(tmp_path / "a" / "run")
    assert from_dict(TrainConfig, again.config()) == TrainConfig(seed=3)
    assert json.loads((run.path / "environment.json").read_text())["packages"]["numpy"]


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, {"seed": 1})
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        RunFolder.create(tmp_path, {"seed": 2})
    assert RunFolder.open(tmp_path).config() == {"seed": 1}


def test_a_folder_whose_making_was_killed_can_be_made_again(tmp_path: Path) -> None:
    write_json(tmp_path / "environment.json", {})
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.open(tmp_path)
    RunFolder.create(tmp_path, {"seed": 1})


def test_a_run_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    config = TrainConfig(seed=3)
    RunFolder.create(tmp_path, config)
    RunFolder.open(tmp_path, TrainConfig(seed=3))
    other = dataclasses.replace(config, limit=5, env=dataclasses.replace(config.env, budget=2))
    with pytest.raises(ConfigError, match=r"begun with other settings \(limit, env\.budget\)"):
        RunFolder.open(tmp_path, other)


def test_unreadable_configuration(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    run.config_path.write_text("{")
    with pytest.raises(ConfigError, match=r"cannot read .*config\.json"):
        run.config()
    run.config_path.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json holds no settings; start the run again"):
        run.config()


def test_metrics_of_a_killed_run_are_read_and_go_on(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {})
    assert run.metrics() == []
    run.log({"step": 1, "reward": 0.5})
    with run.metrics_path.open("a") as f:
        f.write('{"step": 2, "rew')
    assert run.metrics() == [{"step": 1, "reward": 0.5}]
    run.close()
    again = RunFolder.open(tmp_path)
    again.log({"step": 2})
    again.close()
    again.close()
    assert again.metrics() == [{"step": 1, "reward": 0.5}, {"step": 2}]


def test_environment_names_packages_and_nothing_of_the_user() -> None:
    data = environment()
    assert data["packages"]["evalplus"].startswith("0.")
    assert str(Path.home()) not in json.dumps(data)


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_atomic(tmp_path / "sub" / "f", "é")
    write_atomic(tmp_path / "sub" / "f", b"\x00new")
    assert (tmp_path / "sub" / "f").read_bytes() == b"\x00new"
    assert os.listdir(tmp_path / "sub") == ["f"]


def test_atomic_write_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "f", "x")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_atomic_write_removes_what_killed_writers_left_and_nothing_of_living_ones(tmp_path: Path) -> None:
    left, living, other = (tmp_path / f".{name}.{i:032x}" for i, name in enumerate(("f", "f", "g")))
    for path in (left, living, other):
        path.write_text("half")
    with living.open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        write_atomic(tmp_path / "f", "new")
    assert {p.name for p in tmp_path.iterdir()} == {"f", living.name, other.name}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]
