from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from promptrl_plugin.errors import SamplesError
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, Split, StrategyOptions
from promptrl_plugin.harnesses.samples import SampleFiles, samples_path
from promptrl_plugin.records import Feedback, OptimizedPrompt, Sample, Status

OPTIONS = SolveOptions(StrategyOptions("promptrl"), BackboneOptions("./org/model", "hf"), root=Path("out"))


def name(options: SolveOptions = OPTIONS, **identity: object) -> str:
    return samples_path(options, "mbpp", identity).name


def sample(task_id: str) -> Sample:
    return Sample(task_id, "clean", "raw", 3, 20, 10, Status.PASS, OptimizedPrompt("do it", ("plan",)))


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
    ]
    variants = [dataclasses.replace(OPTIONS, strategy=dataclasses.replace(OPTIONS.strategy, **c)) for c in changes]
    names = [name(), *map(name, variants), name(policy="abc"), name(backbone="m@1"), name(suite=["mbpp", "v2"])]
    assert len(set(names)) == len(names)
    assert "oracle" in name(variants[2])  # the mark that such results carry everywhere


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
