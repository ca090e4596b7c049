"""The original MBPP in MBPP+'s form, and its test split."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from suite_rows import WriteRows, mbpp_row, plus_row

from promptrl_plugin.errors import DataError
from promptrl_plugin.records import AssertGroup
from promptrl_plugin.suites.evalplus import EvalPlusSuite
from promptrl_plugin.suites.hidden import CallGroup
from promptrl_plugin.suites.mbpp import BrokenTask, Mbpp500Suite, convert_mbpp, load_mbpp
from promptrl_plugin.suites.registry import load_suite

ROW = mbpp_row(
    7, "Write a function to double x.", "def f(x):\r\n\treturn 2 * x", ["assert f(1) == 2 ", "assert f(2) == 4"]
)


def test_a_task_takes_exactly_the_form_of_mbpp_plus() -> None:
    task, hidden = convert_mbpp(ROW, "s")
    assert task.prompt == '"""\nWrite a function to double x.\nassert f(1) == 2\n"""\n'
    assert (task.id, task.suite, task.dialect, task.entry_point) == ("Mbpp/7", "s", "mbpp", "f")
    assert task.visible == AssertGroup(("assert f(1) == 2",))
    assert hidden.base == AssertGroup(("assert f(1) == 2", "assert f(2) == 4"))
    assert hidden.plus is None
    assert hidden.reference == "def f(x):\n\treturn 2 * x", "line ends become \\n and tabs stay"


@pytest.mark.parametrize(
    "statement",
    [
        "assert not f(1)",
        "assert set(f([1])) == set([1])",
        "assert math.isclose(f(1), 2.0)",
        "assert (f(1)) == g_like(1)",
    ],
)
def test_entry_point_is_the_references_function(statement: str) -> None:
    code = "def helper(x):\n  return x\ndef f(x):\n  return helper(x)"
    task, _ = convert_mbpp(mbpp_row(1, "T", code, [statement]), "s")
    assert task.entry_point == "f"
    assert task.visible.setup == ("import math" if "math" in statement else "")


@pytest.mark.parametrize(
    ("code", "asserts", "setup", "reason"),
    [
        ("def f(x) return", ["assert f(1) == 1"], "", "reference does not parse"),
        ("def f(x): return 1", ["assert f(1) =="], "", "assert does not parse"),
        ("def g(x): return 1", ["assert f(1) == 1"], "", "does not define"),
        ("def f(x): return 1\ndef g(x): return 1", ["assert f(1) == 1", "assert g(1) == 1"], "", "does not define"),
        ("f = lambda x: x", ["assert f(1) == 1"], "", "does not define"),
        ("def f(x): return 1", ["assert f(1) == 1"], "root = (", "set-up code does not parse"),
    ],
)
def test_what_cannot_be_put_in_that_form_says_why(code: str, asserts: list[str], setup: str, reason: str) -> None:
    with pytest.raises(BrokenTask, match=reason):
        convert_mbpp(mbpp_row(1, "T", code, asserts, setup), "s")


def test_setup_comes_with_the_classes_that_it_needs() -> None:
    code = "class Node:\n  def __init__(self, v): self.v = v\nclass Other: pass\ndef f(n): return n.v"
    task, hidden = convert_mbpp(mbpp_row(1, "T", code, ["assert f(root) == 3"], "root = Node(3)"), "s")
    namespace: dict[str, Any] = {}
    exec("\n".join([task.visible.setup, "def f(n): return n.v", *task.visible.asserts]), namespace)
    assert "Other" not in namespace
    assert isinstance(hidden.base, AssertGroup)
    assert hidden.base.setup == task.visible.setup


def test_load_orders_by_id(write_rows: WriteRows) -> None:
    write_rows("PROMPTRL_MBPP_PATH", [{**ROW, "task_id": 9}, ROW])
    assert [row["task_id"] for row in load_mbpp()] == [7, 9]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no tasks"),
        ([ROW, ROW], "task 7 twice"),
        ([{**ROW, "test_list": []}], "'test_list'"),
        ([{k: v for k, v in ROW.items() if k != "code"}], "'code'"),
        (["text"], "not JSON Lines of objects"),
    ],
)
def test_malformed_data_names_the_variable(rows: list[Any], reason: str, write_rows: WriteRows) -> None:
    write_rows("PROMPTRL_MBPP_PATH", rows)
    with pytest.raises(DataError, match=f"{reason}.*PROMPTRL_MBPP_PATH"):
        load_mbpp()


def test_torn_and_missing_files_name_the_variable(write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows("PROMPTRL_MBPP_PATH", [ROW])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="PROMPTRL_MBPP_PATH"):
        load_mbpp()
    monkeypatch.setenv("PROMPTRL_MBPP_PATH", "/nonexistent/mbpp.jsonl")
    with pytest.raises(DataError, match=r"/nonexistent/mbpp\.jsonl.*PROMPTRL_MBPP_PATH"):
        load_mbpp()


def test_no_cache_and_no_network_ends_soon_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.delenv("PROMPTRL_MBPP_PATH", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", tmp_path)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=r"PROMPTRL_MBPP_PATH.*mbpp\.jsonl"):
        load_mbpp()
    assert before == constants.HF_HUB_OFFLINE


def test_mbpp500_takes_evalplus_tasks_where_there_are_any(write_rows: WriteRows) -> None:
    write_rows(
        "MBPP_OVERRIDE_PATH",
        [
            plus_row(12, "Rewritten text.", "assert f(1) == 2", "f", "def f(x):\n  return 2 * x"),
            plus_row(700, "Not in the test split.", "assert f(1) == 2", "f", "def f(x):\n  return 2 * x"),
        ],
    )
    write_rows("PROMPTRL_MBPP_PATH", [{**ROW, "task_id": n} for n in (10, 11, 12, 510, 511)])
    suite = Mbpp500Suite()
    hidden = suite.hidden()
    assert [t.id for t in suite.tasks()] == ["Mbpp/11", "Mbpp/12", "Mbpp/510"]
    assert {t.suite for t in suite.tasks()} == {"mbpp500"}
    assert "Rewritten text." in suite.tasks()[1].prompt
    assert isinstance(hidden["Mbpp/12"].base, CallGroup)
    assert isinstance(hidden["Mbpp/11"].base, AssertGroup)
    assert suite.from_evalplus == 1


def test_mbpp500_has_all_of_the_real_test_split(shared_data: Path) -> None:
    suite = Mbpp500Suite()
    plus = {t.id: t for t in EvalPlusSuite("mbpp").tasks()}
    assert [t.id for t in suite.tasks()] == [f"Mbpp/{n}" for n in range(11, 511)]
    assert suite.from_evalplus == 224
    for task in suite.tasks():
        assert task.visible.asserts
        if task.id in plus:
            assert task.prompt == plus[task.id].prompt


_CHECK = """
import json, os, sys
sys.stdout = open(os.devnull, "w")
for name, source in json.load(sys.stdin):
    try:
        exec(source, {})
    except BaseException as e:
        sys.stderr.write(f"{name} {e!r}\\n")
"""


@pytest.mark.parametrize("name", ["mbpp500", "mbpp-train"])
def test_every_real_reference_passes_its_asserts(name: str, shared_data: Path) -> None:
    import json

    suite = load_suite(name)
    programs = [
        (task_id, "\n".join([hidden.base.setup, hidden.reference, *hidden.base.asserts]))
        for task_id, hidden in suite.hidden().items()
        if isinstance(hidden.base, AssertGroup)
    ]
    assert len(programs) > 200
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHECK],
        input=json.dumps(programs),
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
