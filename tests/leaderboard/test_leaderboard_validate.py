"""Verifying entries: an honest one passes, and whatever is changed is named by its field."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starter_board import HIDDEN, IDS, SUITE, WRONG, policy

from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.cli import main as cli
from promptrl_plugin.evaluation.judging import Submission, judge_samples
from promptrl_plugin.leaderboard import entry, validate
from promptrl_plugin.leaderboard.entry import Run, Spent, differences, figures
from promptrl_plugin.leaderboard.submission import hashes, read_submission, write_submission
from promptrl_plugin.leaderboard.validate import validate_entry
from promptrl_plugin.records import Status

Change = Callable[[dict[str, Any]], Any]


class Never:
    """A judge that must not be asked."""

    version = "never"

    def check(self, *_: Any) -> Any:
        raise AssertionError("it was judged")

    execute = check


def files_of(board: Path, row: str) -> tuple[Path, Path]:
    return board / "entries" / f"{IDS[row]}.json", board / "submissions" / f"{IDS[row]}.zip"


def change_entry(board: Path, row: str, change: Change) -> Path:
    path, _ = files_of(board, row)
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))
    return path


def change_files(board: Path, row: str, change: Change, *, rehash: bool = True) -> Path:
    """Change files of a submission; its own manifest, and with `rehash` the entry's hashes, are made to fit."""
    path, submission = files_of(board, row)
    index, files = read_submission(submission)
    change(files)
    write_submission(submission, index["entry"], files)
    if rehash:
        change_entry(board, row, lambda e: e.update(hashes=hashes(files)))
    return path


def fields(path: Path, judge: Any = None) -> list[str]:
    return [p.field for p in validate_entry(path, judge or Never())]


@pytest.mark.parametrize("row", IDS)
def test_an_honest_entry_is_verified(first_board: Path, row: str, judge: IsolatedJudge):
    done: list[int] = []
    assert validate_entry(files_of(first_board, row)[0], judge, done.append) == []
    assert len(done) == (30 if row == "direct" else 60)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("feedback", lambda e: e.update(feedback="oracle")),
        ("the entry", lambda e: e.pop("budget")),
        ("scores.plus.strict.mean", lambda e: e["scores"]["plus"]["strict"].update(mean=1.5)),
        ("created", lambda e: e.update(created="yesterday")),
        ("suite.name", lambda e: e["suite"].update(name="starter-tests")),
        ("suite.version", lambda e: e["suite"].update(version="v0")),
        ("suite.tasks", lambda e: e["suite"].update(tasks=29)),
        ("protocol", lambda e: e.update(protocol="held-out")),
        ("selector", lambda e: e.update(selector="vote")),
        ("policies", lambda e: e.update(policies=[{"seed": 0, "hash": "0" * 64, "train_suite": "x",
                                                   "train_suite_version": "y", "train_tasks": 1}])),
        ("hashes.samples", lambda e: e["hashes"].update(samples="0" * 64)),
        ("hashes.bundle", lambda e: e["hashes"].update(bundle="0" * 64)),
        ("seeds", lambda e: e.update(seeds=[0])),
    ],
)  # fmt: skip
def test_a_changed_setting_or_hash_is_named_without_judging(board: Path, field: str, change: Change):
    assert field in fields(change_entry(board, "best-of-k", change))


def test_an_id_or_a_strategy_that_is_not_the_entry_s_is_named(board: Path):
    path = change_entry(board, "best-of-k", lambda e: e["model"].update(dtype="bfloat16"))
    assert fields(path) == ["id"]
    path = change_entry(board, "direct", lambda e: e.update(strategy="directly"))
    assert fields(path) == ["strategy"]
    path, submission = files_of(board, "best-fixed")
    other = path.with_name("other.json")
    shutil.copy(path, other)
    shutil.copy(submission, submission.with_name("other.zip"))
    assert fields(other) == ["id (name of the file)"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scores.plus.strict.mean", lambda e: e["scores"]["plus"]["strict"].update(mean=0.6)),
        ("scores.plus.strict.low", lambda e: e["scores"]["plus"]["strict"].update(low=0.31)),
        ("scores.base.soft.high", lambda e: e["scores"]["base"]["soft"].update(high=0.9)),
        ("generations.per_task", lambda e: e["generations"].update(per_task=1.0)),
        ("tokens.completion.per_solved", lambda e: e["tokens"]["completion"].update(per_solved=None)),
    ],
)
def test_a_changed_figure_is_named(board: Path, judge: IsolatedJudge, field: str, change: Change):
    path = change_entry(board, "best-of-k", change)
    (problem,) = validate_entry(path, judge)
    assert problem.field == field
    assert "recomputed" in problem.message


def flip(files: dict[str, bytes], program: str) -> None:
    """Submit another program for the first task."""
    lines = files["samples/s0.jsonl"].decode().splitlines(keepends=True)
    lines[0] = json.dumps({"task_id": SUITE.tasks()[0].id, "solution": program}) + "\n"
    files["samples/s0.jsonl"] = "".join(lines).encode()


def test_samples_that_are_not_those_of_the_hash_are_named(board: Path):
    path = change_files(board, "direct", lambda f: flip(f, "pass"), rehash=False)
    assert fields(path) == ["hashes.samples", "hashes.bundle"]
    _, submission = files_of(board, "best-of-k")
    with zipfile.ZipFile(submission, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("results/s0.json", "{}")
    assert "results/s0.json" in fields(files_of(board, "best-of-k")[0])


def test_samples_that_are_worse_than_claimed_are_judged_anew(board: Path, judge: IsolatedJudge):
    first = SUITE.tasks()[0].id
    path = change_files(board, "direct", lambda f: flip(f, WRONG[first]))
    problems = validate_entry(path, judge)
    assert {"results/s0.json", "scores.plus.strict.mean", "scores.plus.soft.mean"} <= {p.field for p in problems}
    assert first in problems[0].message
    assert "0.333333 claimed, 0.3 recomputed" in [p.message for p in problems if p.field == "scores.plus.strict.mean"]


class Busy:
    """A judge that lets one program run out of time in its first judgings, as on a machine that is busy."""

    def __init__(self, judge: IsolatedJudge, program: str, times: int) -> None:
        self.judge, self.program, self.times, self.version = judge, program, times, judge.version

    def check(self, requests: Any, on_progress: Any = None) -> Any:
        verdicts = self.judge.check(requests, on_progress)
        for i, request in enumerate(requests):
            if request.program == self.program and self.times > 0:
                self.times -= 1
                verdicts[i] = tuple(v and replace(v, status=Status.TIMEOUT, passed=()) for v in verdicts[i])
        return verdicts

    execute = check


def reference_of(files: dict[str, bytes], n: int) -> str:
    program: str = json.loads(files["samples/s0.jsonl"].splitlines()[n])["solution"]
    return program


def test_a_program_that_ran_out_of_time_once_is_judged_again(board: Path, judge: IsolatedJudge):
    path, submission = files_of(board, "direct")
    right = reference_of(read_submission(submission)[1], 0)
    for times in (1, 2):
        notices: list[str] = []
        assert validate_entry(path, Busy(judge, right, times), None, notices.append) == []
        (notice,) = notices
        assert f"seed 0: {SUITE.tasks()[0].id} is ('timeout', 'timeout') at first" in notice
    found = validate_entry(path, Busy(judge, right, 3))
    assert [p.field for p in found][:1] == ["results/s0.json"]


def test_a_claim_that_is_worse_than_what_is_judged_stands_for_few_tasks(
    board: Path, judge: IsolatedJudge, monkeypatch: pytest.MonkeyPatch
):
    """The entry of a machine on which the first program runs out of time, verified on one where it does not."""
    first = SUITE.tasks()[0].id

    def slower(files: dict[str, bytes]) -> None:
        results = json.loads(files["results/s0.json"])
        results["eval"][first][0].update(base_status="timeout", plus_status="timeout")
        files["results/s0.json"] = json.dumps(results).encode()

    path = change_files(board, "direct", slower)
    files = read_submission(files_of(board, "direct")[1])[1]
    programs = [json.loads(line)["solution"] for line in files["samples/s0.jsonl"].splitlines()]
    spent = [Spent(**json.loads(line)) for line in files["spending/s0.jsonl"].splitlines()]
    submitted = [Submission(t.id, p) for t, p in zip(SUITE.tasks(), programs, strict=True)]
    judged = judge_samples(submitted, HIDDEN, Busy(judge, programs[0], 1))
    change_entry(board, "direct", lambda e: e.update(figures([Run(tuple(judged), tuple(spent))])))
    monkeypatch.setattr(entry, "_SOFT_TOLERANCE", 1.01 / 30)  # one program of 30 counts more than one of 378

    assert {"results/s0.json", "scores.plus.strict.mean"} <= set(fields(path, judge))
    monkeypatch.setattr(validate, "_SLOWER", 1.01 / 30)
    notices: list[str] = []
    assert [p.field for p in validate_entry(path, judge, None, notices.append) if "soft" not in p.field] == []
    (notice,) = notices
    assert (
        notice == f"seed 0: {first} is claimed to be ('timeout', 'timeout') and is ('pass', 'pass') here (base, plus)"
    )
    monkeypatch.setattr(validate, "_SLOWER", 0.99 / 30)
    assert "results/s0.json" in fields(path, judge)


def test_a_repeated_or_missing_sample_is_named(board: Path, judge: IsolatedJudge):
    def repeat(files: dict[str, bytes]) -> None:
        files["samples/s0.jsonl"] += files["samples/s0.jsonl"].splitlines(keepends=True)[0]

    def lose(files: dict[str, bytes]) -> None:
        files["samples/s0.jsonl"] = b"".join(files["samples/s0.jsonl"].splitlines(keepends=True)[1:])

    for change in (repeat, lose):
        (problem,) = validate_entry(change_files(board, "direct", change), judge)
        assert problem.field == "seeds (seed 0)"
        assert "samples/s0.jsonl" in problem.message
        assert "promptrl-submission" not in problem.message


def test_more_generations_than_the_budget_are_named(board: Path, judge: IsolatedJudge):
    def spend(files: dict[str, bytes]) -> None:
        files["spending/s0.jsonl"] = files["spending/s0.jsonl"].replace(b'"generations": 1', b'"generations": 2', 1)

    found = fields(change_files(board, "direct", spend), judge)
    assert found[0] == "budget"
    assert "generations.per_task" in found


def test_a_policy_that_was_trained_on_a_task_of_the_suite_is_refused(board: Path, tmp_path: Path):
    leaking = policy((SUITE.tasks()[5],)).save(tmp_path / "leaking")

    def leak(files: dict[str, bytes]) -> None:
        files |= {f"policy/s1/{p.name}": p.read_bytes() for p in leaking.iterdir()}

    (problem,) = validate_entry(change_files(board, "best-fixed", leak), Never())
    assert problem.field == "policies.1"
    assert SUITE.tasks()[5].id in problem.message


def test_another_policy_than_claimed_and_another_learner_s_are_named(board: Path, tmp_path: Path):
    path = change_entry(board, "best-fixed", lambda e: e["policies"][0].update(hash="0" * 64, train_tasks=7))
    assert fields(path) == ["policies.0.hash", "policies.0.train_tasks"]
    other = policy((), learner="gepa").save(tmp_path / "gepa")

    def swap(files: dict[str, bytes]) -> None:
        files |= {f"policy/s0/{p.name}": p.read_bytes() for p in other.iterdir()}

    (problem,) = validate_entry(change_files(board, "best-fixed", swap), Never())
    assert problem.field == "policies.0"


@pytest.mark.parametrize("name", ["../../evil.py", "samples/s0.jsonl/x", "policy/s0/weights.pkl"])
def test_a_file_that_no_submission_has_is_refused(board: Path, name: str):
    path, submission = files_of(board, "direct")
    with zipfile.ZipFile(submission, "a") as archive:
        archive.writestr(name, "x")
    assert fields(path) == ["submission"]


def test_a_missing_or_damaged_submission_is_named(board: Path):
    path, submission = files_of(board, "direct")
    submission.write_bytes(b"PK" + submission.read_bytes()[100:900])
    assert fields(path) == ["submission"]
    submission.unlink()
    assert fields(path) == ["submission"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["promptrl", "leaderboard", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_commands_from_a_comparison_to_the_page(
    compare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))
    board = ["--board", str(tmp_path / "board")]
    assert not run(monkeypatch, "add", str(compare), "--row", "direct", "--row", "best-fixed", *board)
    assert not run(monkeypatch, "validate", "--workers", "1", *board)
    assert "2 entries verified" in capsys.readouterr().out
    assert not run(monkeypatch, "build", *board)
    assert (tmp_path / "board" / "site" / "index.html").is_file()

    change_entry(tmp_path / "board", "direct", lambda e: e.update(feedback="oracle"))
    capsys.readouterr()
    assert run(monkeypatch, "validate", "--workers", "1", *board) == 2
    told = capsys.readouterr()
    assert f"{IDS['direct']}.json: feedback: oracle" in told.out
    assert told.err.splitlines()[-1].startswith("promptrl: 1 of 2 entries are not valid")
    assert "--replace" in told.err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("validate", "--board", "nowhere"), "name it with --board"),
        (("build", "--board", "nowhere"), "name it with --board"),
        (("validate", "nothing.json"), "check the path"),
        (("add", "nowhere"), "check the path"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line


def test_the_wrong_programs_of_the_fixture_are_wrong_and_the_references_right():
    assert set(WRONG) >= set(HIDDEN)


def test_soft_means_may_be_off_by_a_test_near_its_time_limit() -> None:
    def scores(strict: float, soft: float) -> dict[str, dict[str, dict[str, float]]]:
        return {"plus": {"strict": {"mean": strict}, "soft": {"mean": soft}}}

    assert differences(scores(0.5, 0.661), scores(0.5, 0.6595)) == []
    fields = [p.field for p in differences(scores(0.5, 0.661), scores(0.499, 0.658))]
    assert fields == ["plus.strict.mean", "plus.soft.mean"]
    spread = [{"soft": {"seed_std": x}, "strict": {"seed_std": x}} for x in (0.0187, 0.0188)]
    assert [p.field for p in differences(*spread)] == ["strict.seed_std"]
