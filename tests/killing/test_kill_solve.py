"""`promptrl solve` and `promptrl compare`, killed at any moment and run again, make what an uninterrupted run makes."""

from __future__ import annotations

import filecmp
import json
import random
import shutil
import sqlite3
import threading
from collections import Counter
from pathlib import Path

import pytest
from killable import Place, read_records

from promptrl_plugin.storage.cache import Cache

FILES = ("samples.jsonl", "samples.raw.jsonl", "samples.trace.jsonl")


def solving(trained: Place, strategy: str = "promptrl") -> tuple[str, ...]:
    policy = ("--policy", str(trained.work / "run" / "bundle")) if strategy == "promptrl" else ()
    return (
        "solve", "--model", "scripted", "--backend", "scripted", "--strategy", strategy, *policy, "--suite",
        "starter-test", "--budget", "3", "--seed", "1", "--out", "samples.jsonl",
    )  # fmt: skip


def comparing(trained: Place) -> tuple[str, ...]:
    return (
        "compare", "--model", "scripted", "--backend", "scripted", "--strategies", "best-of-k,promptrl",
        "--policy", str(trained.work / "run" / "bundle"), "--suite", "starter-test", "--budget", "3",
        "--seeds", "0", "--out", "comparison",
    )  # fmt: skip


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory, trained: Place) -> Place:
    """The uninterrupted `solve`."""
    place = Place(tmp_path_factory.mktemp("solved"))
    assert place.run(*solving(trained)) == 0, place.output
    return place


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, trained: Place) -> Place:
    """The uninterrupted `compare`."""
    place = Place(tmp_path_factory.mktemp("compared"))
    assert place.run_fresh(*comparing(trained)) == 0, place.output
    return place


def kill_at_random(place: Place, command: tuple[str, ...], whole: Place, kills: int, seed: int) -> None:
    """Kill `command` that many times, then let it end; what was stored is never asked for again."""
    rng, done = random.Random(seed), 0
    for target in sorted(rng.sample(range(len(whole.generated())), kills)):
        stored, before = place.stored(), len(place.generated())
        done += place.run_and_kill(
            *command, when=lambda p, n=target: len(p.generated()) >= n, delay=rng.uniform(0, 0.1)
        )
        assert not stored & set(place.generated()[before:]), "asked again for what was stored"
    assert place.run(*command) == 0, place.output
    made, wanted = Counter(place.generated()), Counter(whole.generated())
    assert done >= kills - 1
    assert made.keys() == wanted.keys()
    assert made.total() - wanted.total() <= done, "more than what was in flight was generated twice"


def test_solve_killed_at_random(place: Place, trained: Place, solved: Place) -> None:
    kill_at_random(place, solving(trained), solved, kills=3, seed=3)
    for name in FILES:
        assert read_records(place.work / name) == read_records(solved.work / name), name


def test_solve_killed_between_the_lines_of_a_sample(place: Place, trained: Place, solved: Place) -> None:
    command = solving(trained)
    for number, name in enumerate(("samples.raw", "samples.trace", "samples.jsonl"), start=2):
        assert place.run(*command, die_at=("write", name, number)) == -9, place.output
    assert place.run(*command) == 0, place.output
    for name in FILES:
        assert read_records(place.work / name) == read_records(solved.work / name), name


def test_compare_killed_at_random_and_while_judging(place: Place, trained: Place, compared: Place) -> None:
    command = comparing(trained)
    kill_at_random(place, command, compared, kills=3, seed=4)
    ours, theirs = place.work / "comparison", compared.work / "comparison"
    (ours / "results.json").unlink()
    with Cache(place.cache / "cache.sqlite") as cache:
        owed = cache.counts()["verdicts"]
    with sqlite3.connect(place.cache / "cache.sqlite") as db:
        db.execute("DELETE FROM verdicts")

    def judging(place: Place) -> bool:
        with Cache(place.cache / "cache.sqlite") as cache:
            return cache.counts()["verdicts"] > owed // 4

    assert place.run_and_kill(*command, when=judging, delay=0)
    assert place.run(*command, die_at=("replace", "results.json")) == -9
    assert place.run(*command) == 0, place.output
    assert filecmp.cmp(ours / "results.json", theirs / "results.json", shallow=False)
    relative = {p.relative_to(theirs) for p in theirs.rglob("*")}
    assert {p.relative_to(ours) for p in ours.rglob("*")} == relative, "leftovers"
    for path in (p for p in relative if p.suffix == ".jsonl"):
        assert read_records(ours / path) == read_records(theirs / path), path


@pytest.mark.slow
def test_a_cross_fitted_comparison_killed_while_a_fold_trains(place: Place, config: Path) -> None:
    command = (
        "compare", "--model", "scripted", "--backend", "scripted", "--strategies", "direct,promptrl", "--suite",
        "starter-test", "--budget", "3", "--seeds", "0", "--split", "crossfit:2", "--config", str(config),
        "--out", "out",
    )  # fmt: skip
    whole = Place(place.root / "whole")
    assert whole.run_fresh(*command) == 0, whole.output
    assert place.run(*command, die_at=("replace", "checkpoint.safetensors", 2)) == -9, place.output
    assert place.run(*command) == 0, place.output
    ours, theirs = place.work / "out", whole.work / "out"
    assert filecmp.cmp(ours / "results.json", theirs / "results.json", shallow=False)
    policies = sorted(p.relative_to(theirs) for p in theirs.rglob("policy.safetensors"))
    assert len(policies) == 2
    for path in policies:
        assert filecmp.cmp(ours / path, theirs / path, shallow=False), path
    assert place.run("report", "out") == 0, place.output
    page = (ours / "report" / "report.html").read_text()
    for fold in range(2):
        assert f"promptrl_b3_visible_crossfit2_s0, fold {fold}" in page


def test_two_runs_at_once_on_one_cache(place: Place, trained: Place, solved: Place) -> None:
    """Both end with what each makes alone, and the cache is whole."""
    (place.root / "second").mkdir()
    command = solving(trained)
    other = (*command[:-1], str(place.root / "second" / "samples.jsonl"))
    codes: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda n=name, c=argv: codes.update({n: place.run(*c)}))
        for name, argv in (("one", command), ("two", other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {"one": 0, "two": 0}, place.output
    for name in FILES:
        assert read_records(place.work / name) == read_records(solved.work / name)
        assert read_records(place.root / "second" / name) == read_records(solved.work / name)
    with sqlite3.connect(place.cache / "cache.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert place.stored() == solved.stored()


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "torn":
        path.write_bytes(data[:-9])
    elif how == "tail":
        path.write_bytes(data + data.splitlines()[-1][:20])
    elif how == "garbage":
        path.write_bytes(b"garbage\n" + data)
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.raw.jsonl"])
def test_a_foreign_line_in_the_samples_is_an_error_that_changes_nothing(
    place: Place, trained: Place, solved: Place, name: str
) -> None:
    shutil.copytree(solved.root, place.root, dirs_exist_ok=True)
    damage(place.work / name, "garbage")
    before = {n: (place.work / n).read_bytes() for n in FILES}
    assert_one_line(place, place.run(*solving(trained)), "delete the line")
    assert {n: (place.work / n).read_bytes() for n in FILES} == before


def test_torn_samples_are_made_again_from_the_cache(place: Place, trained: Place, solved: Place) -> None:
    shutil.copytree(solved.root, place.root, dirs_exist_ok=True)
    for name, how in zip(FILES, ("torn", "tail", "tail"), strict=True):
        damage(place.work / name, how)
    assert place.run(*solving(trained)) == 0, place.output
    assert place.generated() == solved.generated(), "nothing is generated anew"
    assert [read_records(place.work / n) for n in FILES] == [read_records(solved.work / n) for n in FILES]


@pytest.mark.parametrize(
    ("name", "how", "remedy"),
    [
        ("results.json", "torn", "delete it and run the same `promptrl compare`"),
        ("config.json", "torn", "start the run again elsewhere"),
        ("starter/*best-of-k*s0*.trace.jsonl", "gone", "run again"),
    ],
)
def test_damaged_comparison(place: Place, trained: Place, compared: Place, name: str, how: str, remedy: str) -> None:
    shutil.copytree(compared.root, place.root, dirs_exist_ok=True)
    folder = place.work / "comparison"
    results = json.loads((folder / "results.json").read_text())
    (path,) = folder.glob(name.replace("starter", "*"))
    damage(path, how)
    assert_one_line(place, place.run(*comparing(trained)), remedy)
    if name != "results.json":
        assert json.loads((folder / "results.json").read_text()) == results
        return
    path.unlink()  # the remedy
    assert place.run(*comparing(trained)) == 0, place.output
    assert json.loads(path.read_text()) == results
    assert place.generated() == compared.generated()


def assert_one_line(place: Place, code: int, remedy: str) -> None:
    assert code == 2, place.output
    lines = [line for line in place.output.splitlines() if line.startswith("promptrl:")]
    assert len(lines) == 1, place.output
    assert remedy in lines[0]
    assert "Traceback" not in place.output
