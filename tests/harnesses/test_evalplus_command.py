"""``evalplus.evaluate --strategy …`` and ``lm_eval --tasks …`` as a user runs them, in processes of their own.

The backbone is a scripted one: a little package on the path adds backend ``scripted`` by its entry point.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import harness_doubles as doubles
import pytest

PLUGIN = """
import json, os, pathlib
from promptrl_plugin.backbones.scripted import ScriptedBackbone

def make(name, *, dtype, base_url):
    table = json.loads(pathlib.Path(os.environ["SCRIPTED_ANSWERS"]).read_text())
    def rule(request):
        with open(os.environ["SCRIPTED_ANSWERS"] + ".log", "a") as log:
            log.write("generation\\n")
        asked = request.prompt.messages[-1].content
        return next(text for prompt, text in table.items() if prompt in asked)
    return ScriptedBackbone(rule, name=name)
"""


class Machine:
    """A working directory with three tasks, a scripted backend and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        site = folder / "site"
        (site / "scripted_plugin-1.dist-info").mkdir(parents=True)
        (site / "scripted_plugin.py").write_text(PLUGIN)
        (site / "scripted_plugin-1.dist-info" / "METADATA").write_text("Name: scripted-plugin\nVersion: 1\n")
        (site / "scripted_plugin-1.dist-info" / "entry_points.txt").write_text(
            "[promptrl.backbones]\nscripted = scripted_plugin:make\n"
        )
        answers = {
            r["prompt"].strip(): (doubles.program if i else doubles.wrong)(r) for i, r in enumerate(doubles.rows())
        }
        (folder / "answers.json").write_text(json.dumps(answers))
        self.env = {
            **os.environ,
            "MBPP_OVERRIDE_PATH": str(doubles.write_override(folder / "mbpp.jsonl")),
            "PROMPTRL_CACHE": str(folder / "cache"),
            "SCRIPTED_ANSWERS": str(folder / "answers.json"),
            "PYTHONPATH": str(site),
            "XDG_CACHE_HOME": str(folder / "xdg"),
        }

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=self.env, timeout=300)
        assert done.returncode == code, done.stderr
        return done

    def generations(self) -> int:
        log = self.folder / "answers.json.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def files(self, end: str) -> list[Path]:
        return sorted((self.folder / "evalplus_results" / "mbpp").glob(f"*{end}"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_evaluate_generates_and_scores(machine: Machine) -> None:
    command = (script("evalplus.evaluate"), "--strategy", "direct", "--model", "org/m", "--backend", "scripted")
    done = machine.run(*command)
    assert done.stdout.count("pass@1:\t0.667") == 2  # base, and base + extra
    (results,) = machine.files("_eval_results.json")
    assert results.name.startswith("org--m_scripted_temp_0.0_direct_b1_none_s0_")
    statuses = [r[0]["plus_status"] for r in json.loads(results.read_text())["eval"].values()]
    assert statuses == ["fail", "pass", "pass"]
    assert machine.generations() == 3

    again = machine.run(*command)
    assert "Load from previous results" in again.stdout
    assert machine.generations() == 3


def test_python_m_and_another_strategy(machine: Machine) -> None:
    common = ("--model", "m", "--backend", "scripted")
    first = machine.run(sys.executable, "-m", "evalplus.codegen", "--dataset", "mbpp", "--strategy=direct", *common)
    path = Path(machine.folder, first.stdout.strip())  # EvalPlus prints the path, too
    assert [line["task_id"] for line in doubles.lines(path)] == [r["task_id"] for r in doubles.rows()]
    machine.run(sys.executable, "-m", "evalplus.codegen", "--strategy", "best-of-k", "--budget", "2", *common)
    assert len(machine.files(".raw.jsonl")) == 2


def test_goes_on_after_a_kill(machine: Machine) -> None:
    command = (script("evalplus.codegen"), "--strategy", "direct", "--model", "m", "--backend", "scripted")
    machine.run(*command, "--id_range", "[0,100000]")
    (raw,) = machine.files(".raw.jsonl")
    samples = raw.with_name(raw.name.replace(".raw", ""))
    samples.write_bytes(samples.read_bytes()[:-9])
    machine.run(*command)
    assert len(list(doubles.lines(samples))) == 3
    assert machine.generations() == 3  # the third came from the cache


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--strategy", "best-of-n"), "did you mean 'best-of-k'"),
        (("--strategy", "direct", "--backend", "scriptd"), "did you mean 'scripted'"),
        (("--strategy", "promptrl", "--backend", "scripted", "--model", "m"), "promptrl train --model m"),
        (("--strategy", "direct", "--id_range", "[0,5]"), "evalplus.codegen"),
        (("--strategy", "direct", "--samples", "x.jsonl"), "--samples"),
        (("--strategy", "direct", "--sede", "1"), "did you mean --seed"),
    ],
)
def test_one_line_and_exit_code_2(machine: Machine, args: tuple[str, ...], part: str) -> None:
    done = machine.run(script("evalplus.evaluate"), *args, code=2)
    assert part in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("promptrl: ")
    assert machine.files("*") == []


def test_help_explains_the_flags(machine: Machine) -> None:
    machine.env["PAGER"] = "cat"
    text = machine.run(script("evalplus.evaluate"), "--help").stderr
    for flag in ("--strategy", "--policy", "--budget", "--feedback", "--split", "--seed", "--base_only", "--root"):
        assert flag in text
    assert "prompting strategy: direct, best-of-k" in text
