"""Verdicts equal to `evalplus.eval.untrusted_check`, test by test, on real tasks (shared data)."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from evalplus_side import reference_times, their_verdict, their_verdict_on_the_reference

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import GroupVerdict, Status
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


@pytest.fixture(scope="module")
def evalplus() -> Iterator[ProcessPoolExecutor]:
    """Processes of their own for EvalPlus: it forks for each program, which a large parent makes slow."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("task_id", [f"{'Mbpp' if d == 'mbpp' else 'HumanEval'}/{n}" for d in TASKS for n in TASKS[d]])
def test_same_verdicts_as_evalplus(
    task_id: str, judge: IsolatedJudge, hidden: dict[str, HiddenTests], evalplus: ProcessPoolExecutor
) -> None:
    group = hidden[task_id].base
    assert isinstance(group, CallGroup)
    name, reference = group.entry_point, group.reference
    programs = {"canonical": reference}
    for label, wrapper in WRAPPERS.items():
        programs[label] = f"{reference}\n_right = {name}\ndef {name}(*args):\n    return ({wrapper})(_right(*args))\n"
    expected, seconds = evalplus.submit(reference_times, group).result()
    theirs = {k: evalplus.submit(their_verdict, group, p, expected, seconds) for k, p in programs.items()}
    verdicts = judge.check([JudgeRequest(p, (group,)) for p in programs.values()])
    ours = dict(zip(programs, map(_outcome, verdicts), strict=True))
    assert ours == {label: future.result() for label, future in theirs.items()}


#: Programs of every kind that does not get as far as a comparison, or only just; ``{right}`` is the reference.
ODD = {
    "syntax error": "def {name}(:",
    "nothing": "",
    "another name": "def other(): return 1",
    "annotation of no such name": "{right}\ndef other(x: List[int]): return 1",
    "exit when loaded": "import sys\nsys.exit(0)",
    "crash when loaded": "import os\nos._exit(1)",
    "endless loop": "def {name}(*args):\n    while True: pass",
    "endless loop when loaded": "while True: pass",
    "deep recursion": "def {name}(*args):\n    return {name}(*args)",
    "deep recursion, caught": (
        "{right}\n_right = {name}\ndef deep(): return deep()\ndef {name}(*args):\n    try: deep()\n"
        "    except RecursionError: return _right(*args)\n"
    ),
    "too much memory": "def {name}(*args):\n    return len(bytearray(1 << 36))",
    "much memory": "{right}\nx = bytearray(1 << 28)\nx[::4096] = b'1' * len(x[::4096])\n",
    "slow but right": (
        "import time\n{right}\n_right = {name}\ndef {name}(*args):\n    time.sleep(0.4)\n    return _right(*args)\n"
    ),
    "slow to load": "import time\ntime.sleep(1.2)\n{right}",
    "too slow once": (
        "import time\n{right}\n_right, n = {name}, []\ndef {name}(*args):\n    n.append(1)\n"
        "    if len(n) == 2: time.sleep(1.9)\n    return _right(*args)\n"
    ),
    "right, wrong, exception": (
        "{right}\n_right, n = {name}, []\ndef {name}(*args):\n    n.append(1)\n"
        "    return [_right(*args), object(), None][len(n) - 1]\n"
    ),
}
LIAR = "class L:\n    __eq__ = lambda s, o: True\ndef {name}(*args):\n    return L()"


def odd(group: CallGroup, text: str) -> str:
    return text.replace("{right}", group.reference).replace("{name}", group.entry_point)


@pytest.mark.parametrize("task_id", ["Mbpp/3", pytest.param("HumanEval/2", marks=pytest.mark.slow)])
def test_odd_programs_get_the_verdicts_of_evalplus(
    task_id: str, judge: IsolatedJudge, hidden: dict[str, HiddenTests], evalplus: ProcessPoolExecutor, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By our own rules, and by ``verdicts="evalplus"``, which is EvalPlus's own checker."""
    whole = hidden[task_id].base
    assert isinstance(whole, CallGroup)
    group = replace(whole, inputs=whole.inputs[:3])
    programs = {label: odd(group, text) for label, text in ODD.items()}
    expected, seconds = evalplus.submit(reference_times, group).result()
    asked = {k: evalplus.submit(their_verdict, group, p, expected, seconds) for k, p in programs.items()}
    theirs = {label: future.result() for label, future in asked.items()}
    requests = [JudgeRequest(p, (group,)) for p in programs.values()]
    ours = dict(zip(programs, map(_outcome, judge.check(requests)), strict=True))
    assert ours == theirs
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path))
    with IsolatedJudge(JudgeConfig(workers=2, verdicts="evalplus")) as original:
        again = dict(zip(programs, map(_outcome, original.check(requests)), strict=True))
        (lie,) = original.check([JudgeRequest(odd(group, LIAR), (group,))])
    assert again == theirs
    believed = evalplus.submit(their_verdict, group, odd(group, LIAR), expected, seconds).result()
    assert _outcome(lie) == believed == ("pass", [True] * 3)
    assert _outcome(judge.check([JudgeRequest(odd(group, LIAR), (group,))])[0]) == ("fail", [False] * 3)


def _outcome(verdicts: tuple[GroupVerdict | None, ...]) -> tuple[str, list[bool]]:
    (verdict,) = verdicts
    assert verdict is not None
    return str(verdict.status), list(verdict.passed)


#: References that take seconds on their plus tests.
SLOW_REFERENCES = {"Mbpp/255", "Mbpp/599", "Mbpp/392", "Mbpp/271", "Mbpp/622"}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["HumanEval", "Mbpp"])
def test_canonical_solutions_get_the_verdicts_of_evalplus_test_by_test(
    dataset: str, judge: IsolatedJudge, hidden: dict[str, HiddenTests], evalplus: ProcessPoolExecutor
) -> None:
    """Base and plus tests of the first 20 tasks of HumanEval+ and of all of MBPP+."""
    tasks = {i: t for i, t in hidden.items() if i.startswith(dataset) and i not in SLOW_REFERENCES}
    verdicts = judge.check([JudgeRequest(t.reference, t.groups) for t in tasks.values()])
    groups = [(i, group) for i, tests in tasks.items() for group in tests.groups]
    ours = [_outcome((verdict,)) for of_task in verdicts for verdict in of_task]
    theirs = evalplus.map(their_verdict_on_the_reference, [group for _, group in groups], chunksize=8)
    assert [i for (i, _), our, their in zip(groups, ours, theirs, strict=True) if our != their] == []
    assert len(tasks) > (300 if dataset == "Mbpp" else 15)


def test_canonical_solutions_pass_base_tests(judge: IsolatedJudge, hidden: dict[str, HiddenTests]) -> None:
    slow = {"Mbpp/255", "Mbpp/599", "Mbpp/392", "Mbpp/271"}  # many seconds each
    tasks = [t for t in hidden if t not in slow]
    verdicts = judge.check([JudgeRequest(hidden[t].reference, (hidden[t].base,)) for t in tasks])
    failed = [t for t, (v,) in zip(tasks, verdicts, strict=True) if v is None or v.status is not Status.PASS]
    assert failed == []


def test_kit_of_cheats(judge: IsolatedJudge, hidden: dict[str, HiddenTests]) -> None:
    """The quick cheats and controls of the shared collection; its harms run in its own sandbox only."""
    rows = [json.loads(line) for line in (SHARED / "kit" / "adversarial.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["kind"] in ("cheat", "control", "ok") and not r["slow"]]
    verdicts = judge.check([JudgeRequest(r["solution"], (hidden[r["task_id"]].base,)) for r in rows])
    wrong = [
        r["id"]
        for r, (v,) in zip(rows, verdicts, strict=True)
        if v is None or (v.status is Status.PASS) != (r["expected"] == "pass")
    ]
    assert wrong == []
