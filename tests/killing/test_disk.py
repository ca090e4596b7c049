"""Full disks, read-only folders, damaged files: one line with the remedy, and what was there stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable import Place
from test_kill_train import assert_same_run

from promptrl_plugin.records import Completion
from promptrl_plugin.storage.cache import Cache


def assert_one_line(place: Place, code: int, remedy: str) -> None:
    assert code == 2, place.output
    lines = [line for line in place.output.splitlines() if line.startswith("promptrl:")]
    assert len(lines) == 1, place.output
    assert remedy in lines[0]
    assert "Traceback" not in place.output


def mount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True, capture_output=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 64 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        mount(folder, "size=64k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no permission to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def training(config: Path, out: Path | str) -> tuple[str, ...]:
    return ("train", "--config", str(config), "--out", str(out), "--resume")


def test_training_on_a_full_disk_goes_on_once_there_is_room(
    place: Place, trained: Place, config: Path, small: Path
) -> None:
    (place.work / "run").symlink_to(small)
    for _ in range(2):
        assert_one_line(place, place.run(*training(config, "run")), "free some space")
    assert all(p.stat().st_size for p in small.rglob("*.json")), "no empty file"
    mount(small, "remount,size=8m")
    assert place.run(*training(config, "run")) == 0, place.output
    assert_same_run(place, trained)
    assert sorted(place.generated()) == sorted(trained.generated()), "nothing was generated twice"


def test_a_cache_on_a_full_disk_keeps_what_it_has(place: Place, trained: Place, config: Path, small: Path) -> None:
    (place.root / "cache").symlink_to(small)
    mount(small, "remount,size=160k")
    assert_one_line(place, place.run(*training(config, "run")), "free some space, or set PROMPTRL_CACHE")
    kept = place.stored()
    mount(small, "remount,size=8m")
    before = len(place.generated())
    assert place.run(*training(config, "run")) == 0, place.output
    assert not kept & set(place.generated()[before:])
    assert_same_run(place, trained)


def test_read_only_folders(place: Place, config: Path, small: Path) -> None:
    mount(small, "remount,ro,size=64k")
    assert_one_line(place, place.run(*training(config, small / "run")), "choose another place")
    (place.root / "cache").rename(place.root / "writable")
    (place.root / "cache").symlink_to(small)
    assert_one_line(place, place.run(*training(config, "run")), "set PROMPTRL_CACHE to a writable folder")
    assert list(small.iterdir()) == []


LIMITED = """
    import resource, sys
    from pathlib import Path
    from promptrl_plugin.agent.curves import plot_learning_curve
    from promptrl_plugin.agent.tensorboard import ScalarLog
    from promptrl_plugin.errors import UserError
    from promptrl_plugin.records import Completion
    from promptrl_plugin.storage.cache import Cache
    from promptrl_plugin.storage.jsonl import JsonlAppender
    from promptrl_plugin.storage.runs import write_atomic
    folder = Path(sys.argv[1])
    cache = Cache(folder / "cache.sqlite")
    cache.put_completion("00" * 32, Completion("kept", 1, 1, "stop"))
    lines, scalars = JsonlAppender(folder / "lines.jsonl"), ScalarLog(folder / "tensorboard", 0)
    lines.append({"kept": 1})
    write_atomic(folder / "whole", "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    big = "".join(map(chr, range(33, 127))) * 2000
    for write in (
        lambda: write_atomic(folder / "whole", big),
        lambda: plot_learning_curve([{"steps": i, "rollout/solved": i % 7} for i in range(3000)], folder / "c.png"),
        lambda: lines.append({"x": big}),
        lambda: [scalars.write(i, {"x" * 90: 1.0}) for i in range(1000)],
        lambda: [cache.put_embeddings({f"{i:064x}": bytes(range(256)) * 30}) for i in range(20)],
    ):
        try:
            write()
        except UserError as e:
            print(e)
        else:
            sys.exit("it was written")
"""


def test_every_writer_reports_that_a_file_cannot_grow(tmp_path: Path) -> None:
    """A limit on the size of files is a full disk that needs no privilege."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 5
    assert all("free some space" in line for line in lines), lines
    assert (tmp_path / "whole").read_text() == "old"
    assert not (tmp_path / "c.png").exists()
    with Cache(tmp_path / "cache.sqlite") as cache:
        assert cache.get_completions(["00" * 32]) == {"00" * 32: Completion("kept", 1, 1, "stop")}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def garble(path: Path) -> None:
    """Overwrite the second page and on, as a bad block would."""
    with path.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xa5" * (path.stat().st_size - 4096))


def scribble(path: Path) -> None:
    path.write_text("not a line\n" + path.read_text())


DAMAGES = [
    ("checkpoint.safetensors", cut, "train again in another folder"),
    ("checkpoint.safetensors", flip, "train again in another folder"),
    ("best.safetensors", flip, "train again in another folder"),
    ("selection.json", cut, "train again in another folder"),
    ("config.json", cut, "start the run again elsewhere"),
    ("metrics.jsonl", scribble, "delete the line"),
    ("../../cache/cache.sqlite", cut, "delete it, only cached results are lost"),
    ("../../cache/cache.sqlite", garble, "delete it, only cached results are lost"),
]


@pytest.mark.parametrize(("name", "damage", "remedy"), DAMAGES, ids=[f"{n[-22:]}-{d.__name__}" for n, d, _ in DAMAGES])
def test_damaged_files_of_a_run(place: Place, trained: Place, config: Path, name: str, damage, remedy: str) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(trained.root, place.root, dirs_exist_ok=True)
    path = place.work / "run" / name
    damage(path)
    before = {p: p.read_bytes() for p in _kept(place)}
    assert_one_line(place, place.run(*training(config, "run")), remedy)
    assert {p: p.read_bytes() for p in before} == before, "older data was touched"
    if name.endswith("sqlite"):  # the remedy
        path.unlink()
        assert place.run(*training(config, "other")) == 0, place.output


def test_a_torn_tail_of_the_metrics_is_no_matter(place: Place, trained: Place, config: Path) -> None:
    shutil.copytree(trained.root, place.root, dirs_exist_ok=True)
    metrics = place.work / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"steps": 128, "rol')
    assert place.run(*training(config, "run")) == 0, place.output
    assert_same_run(place, trained)
    assert place.generated() == trained.generated()


def _kept(place: Place) -> list[Path]:
    return [p for p in (place.work / "run").rglob("*") if p.is_file() and "tensorboard" not in p.parts]
