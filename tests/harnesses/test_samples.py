from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from promptrl_plugin.env.selection import Selector
from promptrl_plugin.errors import SamplesError, UserError
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, Split, StrategyOptions
from promptrl_plugin.harnesses.samples import SampleFiles, samples_path
from promptrl_plugin.records import Candidate, FailureKind, Feedback, OptimizedPrompt, Sample, Status, Step

OPTIONS = SolveOptions(StrategyOptions("promptrl"), BackboneOptions("./org/model", "hf"), root=Path("out"))


def name(options: SolveOptions = OPTIONS, **identity: object) -> str:
    return samples_path(options, "mbpp", identity).name


def sample(task_id: str) -> Sample:
    prompt = OptimizedPrompt("do it", ("plan",))
    candidates = (Candidate("wrong", 1, 0.5, FailureKind.NAME), Candidate("clean", 3, 1.0, None, "ab12"))
    steps = (Step(1, "do", candidate=0), Step(3, "do it", ("T/1",), True, 1))
    actions = ("generate", "plan_first")
    return Sample(task_id, "clean", "raw", 3, 20, 10, Status.PASS, prompt, actions, candidates, steps)


def test_name_begins_as_evalplus_names_it() -> None:
    path = samples_path(OPTIONS, "mbpp", {})
    assert path.parent == Path("out/mbpp")
    assert path.name.startswith("org--model_hf_temp_0.0_promptrl_b6_visible_s0_")
    assert path.suffix == ".jsonl"


def test_every_part_of_a_configuration_has_its_own_name() -> None:
    changes = [
        {"strategy": "best-of-k"},
        {"budget": 7},
        {"feedback": Feedback.ORACLE},
        {"seed": 1},
        {"split": Split(5)},
        {"selector": Selector.parse("agreement")},
        {"selector": Selector.parse("agreement:3")},
    ]
    variants = [dataclasses.replace(OPTIONS, strategy=dataclasses.replace(OPTIONS.strategy, **c)) for c in changes]
    names = [name(), *map(name, variants), name(policy="abc"), name(backbone="m@1"), name(suite=["mbpp", "v2"])]
    assert len(set(names)) == len(names)
    assert "oracle" in name(variants[2])  # the mark that such results carry everywhere
    assert [f"_visible_{s}_s0_" in n for s, n in zip(("agreement", "agreement3"), names[6:8], strict=True)] == [
        True
    ] * 2


def test_names_under_the_first_rule_are_those_of_before_there_was_another() -> None:
    assert name(policy="abc") == "org--model_hf_temp_0.0_promptrl_b6_visible_s0_cae3e010.jsonl"


def test_writes_evalplus_files_and_a_trace(tmp_path: Path) -> None:
    with SampleFiles(tmp_path / "x.jsonl", ["A/1"]) as files:
        files.append(sample("A/1"))
    read = {p.name: [json.loads(line) for line in p.read_text().splitlines()] for p in tmp_path.iterdir()}
    assert read["x.jsonl"] == [{"task_id": "A/1", "solution": "clean"}]
    assert read["x.raw.jsonl"] == [{"task_id": "A/1", "solution": "raw"}]
    assert read["x.trace.jsonl"] == [
        {
            "task_id": "A/1",
            "generations": 3,
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "visible_status": "pass",
            "operators": ["plan"],
            "prompt": "do it",
            "actions": ["generate", "plan_first"],
            "candidates": [
                {"generations": 1, "visible": 0.5, "failure": "name", "solution": "wrong"},
                {"generations": 3, "visible": 1.0, "failure": None, "outcomes": "ab12", "solution": "clean"},
            ],
            "steps": [
                {"generations": 1, "text": "do", "examples": [], "repair": False, "candidate": 0},
                {"generations": 3, "text": "do it", "examples": ["T/1"], "repair": True, "candidate": 1},
            ],
        }
    ]


def test_goes_on_after_a_kill_in_mid_write(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with SampleFiles(path, ["A/1", "A/2"]) as files:
        files.append(sample("A/1"))
        files.append(sample("A/2"))
    path.write_bytes(path.read_bytes()[:-12])  # the second line is torn
    with SampleFiles(path, ["A/1", "A/2"]) as files:
        assert files.done == {"A/1"}
        files.append(sample("A/2"))
    assert [json.loads(line)["task_id"] for line in path.read_text().splitlines()] == ["A/1", "A/2"]


def test_what_a_kill_left_between_the_files_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with SampleFiles(path, ["A/1", "A/2"]) as files:
        files.append(sample("A/1"))
        files.append(sample("A/2"))
    path.write_text(path.read_text().splitlines(keepends=True)[0])  # killed before the last of the three lines
    with SampleFiles(path, ["A/1", "A/2"]) as files:
        files.append(sample("A/2"))
    for file in tmp_path.iterdir():
        assert [json.loads(line)["task_id"] for line in file.read_text().splitlines()] == ["A/1", "A/2"], file.name


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with SampleFiles(tmp_path / "x.jsonl", ["A/1"]) as files:
        with pytest.raises(UserError, match="another process is writing"):
            SampleFiles(tmp_path / "x.jsonl", ["A/1"])
        files.append(sample("A/1"))
    with SampleFiles(tmp_path / "x.jsonl", ["A/1"]) as files:
        assert files.done == {"A/1"}


def test_old_verdicts_are_set_aside_once_samples_change(tmp_path: Path) -> None:
    results = tmp_path / "x_eval_results.json"
    results.write_text("old")
    with SampleFiles(tmp_path / "x.jsonl", ["A/1"]) as files:
        assert results.exists()  # nothing new: EvalPlus may use them
        files.append(sample("A/1"))
    assert not results.exists()
    assert (tmp_path / "x_eval_results.json.bak").read_text() == "old"


def test_without_resume_old_files_are_kept_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for _ in range(3):
        with SampleFiles(path, ["A/1"], resume=False) as files:
            assert files.done == frozenset()
            files.append(sample("A/1"))
    assert len(path.read_text().splitlines()) == 1
    assert (tmp_path / "x.jsonl.bak.bak").exists()


@pytest.mark.parametrize(
    ("line", "part"),
    [('{"task_id": "B/9", "solution": "x"}', "B/9"), ('{"task_id": "A/1"}', "no solution"), ("[]", "line 1")],
)
def test_foreign_lines_are_refused_and_left_alone(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(SamplesError, match=part):
        SampleFiles(path, ["A/1"])
    assert path.read_text() == line + "\n"


def test_evalplus_takes_jsonl_only(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"\.jsonl"):
        SampleFiles(tmp_path / "x.json", ["A/1"])
