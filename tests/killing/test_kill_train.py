"""`promptrl train`, killed at any moment and resumed, ends as an uninterrupted run does."""

from __future__ import annotations

import filecmp
import random
from collections import Counter
from pathlib import Path
from typing import Any

from killable import Place

from promptrl_plugin.agent.bundle import PolicyBundle
from promptrl_plugin.agent.curves import latest_rows
from promptrl_plugin.storage.runs import RunFolder

#: In the order in which they come up; a run that was killed at one is resumed until the next.
MOMENTS: list[tuple[Any, ...]] = [
    ("replace", "config.json"),
    ("replace", "best.safetensors", 1, True),  # the untrained policy's parameters are there, the selection is not
    ("replace", "selection.json", 1, True),  # the selection is there, metrics and checkpoint are not
    ("write", "metrics.jsonl"),  # the row of random choice, in the middle of the line
    ("write", "metrics.jsonl"),
    ("write", "metrics.jsonl"),  # the row of the first rollout
    ("replace", "checkpoint.safetensors", 2),
    ("replace", "learning_curve.png"),
    ("replace", "policy.safetensors", 1, True),  # of the bundle, before its manifest
    ("rename", "bundle", 1, True),
    ("rename", "bundle.old", 1, True),  # written again: the old one is out of the way, the new one not in place
]


def test_killed_between_any_two_files(place: Place, trained: Place, config: Path) -> None:
    command = ("train", "--config", str(config), "--out", "run", "--resume")
    for moment in MOMENTS:
        assert place.run(*command, die_at=moment) == -9, (moment, place.output)
    assert place.run(*command) == 0, place.output
    assert_same_run(place, trained)
    assert len(place.generated()) == len(trained.generated()), "killed between generations: none was lost"


def test_killed_at_random(place: Place, trained: Place, config: Path) -> None:
    rng = random.Random(1)
    command = ("train", "--config", str(config), "--out", "run", "--resume")
    total, kills = len(trained.generated()), 0
    for target in sorted(rng.sample(range(total), 4)):
        stored, before = place.stored(), len(place.generated())
        kills += place.run_and_kill(
            *command, when=lambda p, n=target: len(p.generated()) >= n, delay=rng.uniform(0, 0.1)
        )
        assert not stored & set(place.generated()[before:]), "asked again for what was stored"
    assert place.run(*command) == 0, place.output
    assert kills >= 3
    assert_same_run(place, trained)
    assert_generated_once(place, trained, kills)


def assert_generated_once(place: Place, whole: Place, kills: int) -> None:
    """All that an uninterrupted run generates, and only what was in flight at a kill twice.

    The scripted backbone has one completion in flight at a time.
    """
    made, wanted = Counter(place.generated()), Counter(whole.generated())
    assert set(wanted.values()) == {1}
    assert made.keys() == wanted.keys()
    assert made.total() - wanted.total() <= kills


def assert_same_run(place: Place, whole: Place) -> None:
    ours, theirs = place.work / "run", whole.work / "run"
    for name in ("bundle/policy.safetensors", "best.safetensors", "selection.json", "config.json"):
        assert filecmp.cmp(ours / name, theirs / name, shallow=False), name
    assert PolicyBundle.load(ours / "bundle").content_hash == PolicyBundle.load(theirs / "bundle").content_hash
    assert _figures(ours) == _figures(theirs)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir()), "leftovers"
    assert sorted(p.name for p in (ours / "bundle").iterdir()) == ["manifest.json", "policy.safetensors"]


def _figures(run: Path) -> list[dict[str, Any]]:
    """Metrics without what was measured of the process: seconds and cache hits."""
    rows = latest_rows(RunFolder.open(run).metrics())
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "cache/"))} for row in rows]
