"""APPS as a suite: its forms of data, its splits, and what is wrong with a user's."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from apps_rows import DOUBLE_STARTER, SUM, double_row, sum_row, write_folders
from suite_rows import WriteRows

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.errors import DataError
from promptrl_plugin.groups import PairGroup
from promptrl_plugin.records import Status
from promptrl_plugin.suites import apps_data
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.registry import load_suite, load_train_suite, not_at_hand

SAMPLE = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data/apps_sample"


def test_prompt_tests_and_reference(write_rows: WriteRows) -> None:
    write_rows("PROMPTRL_APPS_PATH", [double_row(8), sum_row(3)])
    suite = load_suite("apps")
    assert isinstance(suite, Suite)
    script, method = suite.tasks()
    assert (script.id, script.suite, script.dialect, script.entry_point) == ("APPS/3", "apps", "apps", "")
    assert script.prompt == f"\nQUESTION:\n{SUM}\nUse Standard Input format\nANSWER:\n"
    assert method.prompt.endswith(f"\n{DOUBLE_STARTER}\nUse Call-Based format\nANSWER:\n")
    assert method.entry_point == "double"
    assert script.visible == PairGroup("", ("1 2\n", "10 -4\n"), ("3\n", "6\n"))
    hidden = suite.hidden()[script.id]
    assert hidden.groups == (PairGroup("", ("1 2\n", "10 -4\n", "5 5\n"), ("3\n", "6\n", "10\n")),)
    assert suite.hidden()[method.id].base == PairGroup("double", ("[[1, 2]]", "[[7]]"), ("[2, 4]", "[[14]]"))
    assert hidden.reference.startswith("print(")


def test_folders_and_rows_are_the_same_suite(
    tmp_path: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [sum_row(3), double_row(12, "competition")]
    write_rows("PROMPTRL_APPS_PATH", rows)
    lines = load_suite("apps")
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(write_folders(tmp_path / "tasks", rows)))
    folders = load_suite("apps")
    assert folders.tasks() == lines.tasks()
    assert folders.version == lines.version
    assert [t.id for t in load_suite("apps-competition").tasks()] == ["APPS/12"]
    with pytest.raises(DataError, match=r"no introductory task.*PROMPTRL_APPS_PATH"):
        load_suite("apps-introductory")


def test_lines_of_input_and_output_become_texts(write_rows: WriteRows) -> None:
    tests = {"inputs": [["1", "2"]], "outputs": [["3"]]}
    write_rows("PROMPTRL_APPS_PATH", [sum_row(3, input_output=json.dumps(tests))])
    assert load_suite("apps").hidden()["APPS/3"].base == PairGroup("", ("1\n2",), ("3",))


def test_integers_of_any_length(write_rows: WriteRows) -> None:
    many = "9" * 5000
    tests = f'{{"fn_name": "double", "inputs": [[{many}]], "outputs": [{many}]}}'
    write_rows("PROMPTRL_APPS_PATH", [double_row(3, input_output=tests)])
    assert load_suite("apps").hidden()["APPS/3"].base == PairGroup("double", (f"[{many}]",), (many,))


def test_tasks_without_tests_are_left_out_and_counted(write_rows: WriteRows) -> None:
    blind = sum_row(4, question="Add.\n")
    odd = [sum_row(5, input_output=""), sum_row(6, input_output='{"inputs": [1], "outputs": [2]}')]
    odd += [sum_row(7, input_output='{"inputs": ["1"], "outputs": []}'), double_row(8, input_output='{"fn_name": "f"}')]
    write_rows("PROMPTRL_APPS_PATH", [sum_row(3), blind, *odd])
    suite: Any = load_suite("apps")
    assert [t.id for t in suite.tasks()] == ["APPS/3", "APPS/4"]
    assert suite.note == "1 show no test in the statement; 4 more have no tests at all"


def test_test_split_is_evaluated_and_train_split_trains_without_what_is_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "test", [sum_row(0)])
    write_folders(tmp_path / "train", [sum_row(0), double_row(1)])
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(tmp_path))
    assert [t.id for t in load_suite("apps").tasks()] == ["APPS/test/0"]
    train: Any = load_train_suite("apps-train")
    assert [t.id for t in train.tasks()] == list(train.hidden()) == ["APPS/train/1"]
    assert "1 are near-duplicates of test tasks" in train.note


def test_data_of_one_split(tmp_path: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(sum_row(0)) + "\n")
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(tmp_path))
    assert [t.id for t in load_suite("apps").tasks()] == ["APPS/train/0"]
    assert [t.id for t in load_suite("apps-train").tasks()] == ["APPS/train/0"]
    write_rows("PROMPTRL_APPS_PATH", [sum_row(0)])
    with pytest.raises(DataError, match=r"no train/ and no train\.jsonl; point PROMPTRL_APPS_PATH"):
        load_suite("apps-train")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"question": "x"}], "difficulty None"),
        ([sum_row(1, question="  ")], "usable 'question'"),
        ([sum_row(1, problem_id=None)], "no number"),
        ([sum_row(1, input_output="{")], "line 1, input_output is not JSON"),
        ([sum_row(1, input_output="[]")], "line 1, input_output is not a JSON object"),
        ([sum_row(1), sum_row(1)], "task 1 twice"),
        ([], "no APPS task"),
        ([sum_row(1, input_output="")], "no task with tests"),
    ],
)
def test_malformed_data_names_the_variable(rows: list[Any], reason: str, write_rows: WriteRows) -> None:
    write_rows("PROMPTRL_APPS_PATH", rows)
    with pytest.raises(DataError, match=f"{reason}.*PROMPTRL_APPS_PATH"):
        load_suite("apps")


def test_missing_and_empty_folders_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"cannot read .*none.*No such file.*PROMPTRL_APPS_PATH"):
        load_suite("apps")
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"holds no APPS task.*PROMPTRL_APPS_PATH"):
        load_suite("apps")


def test_the_hub_is_asked_for_the_split_and_then_for_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.delenv("PROMPTRL_APPS_PATH", raising=False)
    monkeypatch.setattr(apps_data, "offline_unless_reachable", contextlib.nullcontext)
    apps_data._from_hub.cache_clear()
    asked: list[Any] = []

    def with_scripts(name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        return [sum_row(7)]

    monkeypatch.setattr(datasets, "load_dataset", with_scripts)
    assert [t.id for t in load_suite("apps").tasks()] == ["APPS/test/7"]
    assert asked == [("codeparrot/apps", "test")]

    def without(name: str, split: str) -> Any:
        raise RuntimeError("Dataset scripts are no longer supported")

    def download(name: str, file: str, repo_type: str) -> str:
        path = tmp_path / file
        path.write_text(json.dumps({**sum_row(0), "id": 9, "problem_id": 9}) + "\n")
        return str(path)

    apps_data._from_hub.cache_clear()
    monkeypatch.setattr(datasets, "load_dataset", without)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert [t.id for t in load_suite("apps").tasks()] == ["APPS/test/9"]

    def unreachable(name: str, file: str, repo_type: str) -> str:
        raise OSError("no network")

    apps_data._from_hub.cache_clear()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"cannot load codeparrot/apps \(no network\).*PROMPTRL_APPS_PATH"):
        load_suite("apps")


def test_listing_does_not_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delenv("PROMPTRL_APPS_PATH", raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    assert "PROMPTRL_APPS_PATH" in not_at_hand("apps")
    assert not_at_hand("mbpp") == ""
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(tmp_path))
    assert not_at_hand("apps") == ""


def test_every_solution_of_the_real_sample_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SAMPLE.exists():
        pytest.skip("no apps_sample in ../shared/data (or $PROMPTRL_SHARED/data)")
    monkeypatch.setenv("PROMPTRL_APPS_PATH", str(SAMPLE))
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    suite = load_suite("apps")
    solutions = {f"APPS/train/{row.number}": row.solutions for row in apps_data.load_apps("test").rows}
    assert {t.id: t.visible.count for t in suite.tasks()} == {
        "APPS/train/1": 1,
        "APPS/train/111": 1,
        "APPS/train/2287": 1,
        "APPS/train/2404": 2,
        "APPS/train/4184": 0,
    }
    asked = [
        (t, JudgeRequest(program, (t.visible, *suite.hidden()[t.id].groups)))
        for t in suite.tasks()
        for program in solutions[t.id]
    ]
    with IsolatedJudge(JudgeConfig(workers=1)) as judge:
        for (task, _), verdicts in zip(asked, judge.check([r for _, r in asked]), strict=True):
            assert [v.status for v in verdicts if v is not None] == [Status.PASS] * 2, (task.id, verdicts)
