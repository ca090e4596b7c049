"""Verdicts equal to `evalplus.eval.untrusted_check`, test by test, on real tasks (shared data)."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import Status
from promptrl_plugin.suites.evalplus import EvalPlusSuite
from promptrl_plugin.suites.hidden import CallGroup, HiddenTests

SHARED = Path(os.environ.get("PROMPTRL_SHARED") or Path(__file__).resolve().parents[3] / "shared")
DATA = {"mbpp": "MbppPlus.jsonl.gz", "humaneval": "HumanEvalPlus-first20.jsonl.gz"}
pytestmark = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no EvalPlus data in {SHARED}/data")

#: One of each oracle, and of each kind of output; all with quick references.
TASKS = {
    "mbpp": ["2", "3", "4", "8", "82", "88", "124", "404", "558", "581", "590", "737", "769", "793"],
    "humaneval": ["0", "2", "4", "8", "14"],
}
WRAPPERS = {
    "float": "lambda v: v * 1.0",
    "off by a hair": "lambda v: v + 1e-8",
    "numpy": "lambda v: __import__('numpy').asarray(v)",
    "list": "lambda v: list(v)",
    "generator": "lambda v: (x for x in v)",
    "none": "lambda v: None",
    "nested": "lambda v: [v]",
    "boolean": "lambda v: bool(v)",
    "exit": "lambda v: __import__('sys').exit()",
}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            yield judge


@pytest.fixture(scope="module")
def hidden() -> dict[str, HiddenTests]:
    found: dict[str, HiddenTests] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, file in DATA.items():
            patch.setenv(f"{name.upper()}_OVERRIDE_PATH", str(SHARED / "data" / file))
            found |= EvalPlusSuite(name).hidden()
    return found


def evalplus(group: CallGroup, program: str, expected: list[Any], seconds: list[float]) -> tuple[str, list[bool]]:
    from evalplus.eval import untrusted_check

    inputs = pickle.loads(pickle.dumps(list(group.inputs)))
    status, details = untrusted_check(
        group.dataset, program, inputs, group.entry_point, expected, group.atol, seconds, fast_check=False
    )
    return status, [bool(d) for d in details]


@pytest.mark.parametrize("task_id", [f"{'Mbpp' if d == 'mbpp' else 'HumanEval'}/{n}" for d in TASKS for n in TASKS[d]])
def test_same_verdicts_as_evalplus(task_id: str, judge: IsolatedJudge, hidden: dict[str, HiddenTests]) -> None:
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    group = hidden[task_id].base
    assert isinstance(group, CallGroup)
    name, reference = group.entry_point, group.reference
    programs = {"canonical": reference}
    for label, wrapper in WRAPPERS.items():
        programs[label] = f"{reference}\n_right = {name}\ndef {name}(*args):\n    return ({wrapper})(_right(*args))\n"
    expected, seconds = trusted_exec(
        reference, group.inputs, name, record_time=True, output_not_none=name in MBPP_OUTPUT_NOT_NONE_TASKS
    )
    verdicts = judge.check([JudgeRequest(p, (group,)) for p in programs.values()])
    for (label, program), (verdict,) in zip(programs.items(), verdicts, strict=True):
        assert verdict is not None
        ours = (str(verdict.status), list(verdict.passed))
        assert ours == evalplus(group, program, expected, seconds), label


def test_canonical_solutions_pass_base_tests(judge: IsolatedJudge, hidden: dict[str, HiddenTests]) -> None:
    slow = {"Mbpp/255", "Mbpp/599", "Mbpp/392", "Mbpp/271"}  # many seconds each
    tasks = [t for t in hidden if t not in slow]
    verdicts = judge.check([JudgeRequest(hidden[t].reference, (hidden[t].base,)) for t in tasks])
    failed = [t for t, (v,) in zip(tasks, verdicts, strict=True) if v is None or v.status is not Status.PASS]
    assert failed == []


def test_kit_of_cheats(judge: IsolatedJudge, hidden: dict[str, HiddenTests]) -> None:
    """The quick cheats and controls of the shared collection; its harms run in its own sandbox only."""
    rows = [json.loads(line) for line in (SHARED / "kit" / "adversarial.jsonl").read_text().splitlines()]
    rows = [
        r for r in rows if r["kind"] in ("cheat", "control", "ok") and not r["slow"] and r["id"] != "deep_recursion"
    ]
    verdicts = judge.check([JudgeRequest(r["solution"], (hidden[r["task_id"]].base,)) for r in rows])
    wrong = [
        r["id"]
        for r, (v,) in zip(rows, verdicts, strict=True)
        if v is None or (v.status is Status.PASS) != (r["expected"] == "pass")
    ]
    assert wrong == []
