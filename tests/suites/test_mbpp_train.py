"""mbpp-train: nothing of an evaluated suite, nothing like it, and every task left out is accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
from suite_rows import WriteRows, mbpp_row, plus_row

from promptrl_plugin.errors import DataError, UnknownNameError
from promptrl_plugin.records import AssertGroup
from promptrl_plugin.suites.mbpp_train import KNOWN_NEAR_HUMANEVAL, MbppTrainSuite
from promptrl_plugin.suites.registry import load_suite
from promptrl_plugin.suites.splits import assert_disjoint, fingerprint

TEXT = "Write a python function to rotate every matrix of a nested list clockwise by {} steps."
PLUS = plus_row(
    700,
    "Write a function that turns matrices.",  # EvalPlus has rewritten the text
    "assert turn([[1, 2], [3, 4]], 1) == [[3, 1], [4, 2]]",
    "turn",
    "def turn(m, n):\n  return [list(r) for r in zip(*m[::-1])] if n else m",
)
ORIGINAL = mbpp_row(
    700, TEXT.format("n"), "def turn(m, n):\n  return m", ["assert turn([[1, 2], [3, 4]], 1) == [[3, 1], [4, 2]]"]
)
FAR = mbpp_row(
    601, "Write a function to spell a number in words.", "def spell(n): return 'one'", ["assert spell(1) == 'one'"]
)


def load(write_rows: WriteRows, *rows: dict[str, object]) -> MbppTrainSuite:
    write_rows("MBPP_OVERRIDE_PATH", [PLUS])
    write_rows("PROMPTRL_MBPP_PATH", [ORIGINAL, FAR, *rows])
    return MbppTrainSuite(evaluated=("mbpp", "mbpp500"))


def near(number: int, text: str, code: str, *asserts: str) -> dict[str, object]:
    return mbpp_row(number, text, code, asserts)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (near(602, "Write a function that turns  MATRICES", "def g(m): return 0", "assert g(1) == 0"), "description"),
        (near(602, TEXT.format("n") + " Use lambda.", "def g(m): return 0", "assert g(1) == 0"), "description"),
        (
            near(
                602,
                "Something else entirely.",
                "import os\ndef spin(a, k):\n  'Other names.'\n  return [list(x) for x in zip(*a[::-1])] if k else a",
                "assert spin(1, 2) == 0",
            ),
            "reference",
        ),
        (
            near(
                602,
                "Write a function to spin every matrix of a list clockwise.",
                "def spin(grid, k): return 7",
                "assert spin([[5]], 1) == [[5]]",
                "assert spin([[1, 2], [3, 4]], 1) == [[3, 1], [4, 2]]",
            ),
            "example",
        ),
    ],
)
def test_near_duplicates_of_evaluated_tasks_are_left_out(
    row: dict[str, object], reason: str, write_rows: WriteRows
) -> None:
    suite = load(write_rows, row)
    assert [t.id for t in suite.tasks()] == ["Mbpp/601"]
    (duplicate,) = suite.report().near_duplicates
    assert (duplicate.candidate, duplicate.other) == ("Mbpp/602", "Mbpp/700")
    assert reason in duplicate.reason


def test_the_report_accounts_for_every_task(write_rows: WriteRows) -> None:
    suite = load(
        write_rows,
        mbpp_row(11, "In the test split, not in MBPP+.", "def q(x): return x", ["assert q(3) == 3"]),
        mbpp_row(602, TEXT.format("m"), "def r(x): return 2", ["assert r(0) == 2"]),
        mbpp_row(603, "Does not parse.", "def r(x) return 2", ["assert r(0) == 2"]),
        mbpp_row(604, "Needs a class.", "class Pair: pass\ndef s(x): return 2", ["assert s(Pair()) == 2"]),
        mbpp_row(605, "Needs a tree.", "def t(x): return 2", ["assert t(root) == 2"], "root = 1"),
    )
    report = suite.report()
    assert (report.found, report.excluded_by_id, report.remaining) == (7, 2, 1)
    assert set(report.broken) == {"Mbpp/603", "Mbpp/604", "Mbpp/605"}
    assert "'Pair'" in report.broken["Mbpp/604"]
    assert [d.candidate for d in report.near_duplicates] == ["Mbpp/602"]
    assert report.found == (
        report.excluded_by_id + len(report.broken) + len(report.near_duplicates) + len(suite.tasks())
    )
    assert report.compared == {"mbpp": 1, "mbpp500": 1}
    assert report.not_compared == {}


def test_a_suite_that_cannot_be_loaded_is_named_and_its_known_duplicates_go(
    write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = next(iter(KNOWN_NEAR_HUMANEVAL))
    row = mbpp_row(int(known.split("/")[1]), "Spell backwards.", "def u(x): return x", ["assert u(5) == 5"])
    assert known in {t.id for t in load(write_rows, row).tasks()}, "HumanEval is not evaluated here"
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", "/nonexistent/file")
    suite = MbppTrainSuite(evaluated=("mbpp", "mbpp500", "humaneval"))
    assert "HUMANEVAL_OVERRIDE_PATH" in suite.report().not_compared["humaneval"]
    assert known not in {t.id for t in suite.tasks()}


@pytest.mark.parametrize("variable", ["MBPP_OVERRIDE_PATH", "PROMPTRL_MBPP_PATH"])
def test_without_mbpp_or_mbpp_plus_there_is_nothing_safe_to_train_on(
    variable: str, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(write_rows)
    monkeypatch.setenv(variable, "/nonexistent/file")
    with pytest.raises(DataError, match=variable):
        MbppTrainSuite()


def test_an_evaluated_suite_must_exist(write_rows: WriteRows) -> None:
    load(write_rows)
    with pytest.raises(UnknownNameError, match="mbpp500"):
        MbppTrainSuite(evaluated=("mbpp", "mbpp5oo"))


def test_real_size_and_disjointness(shared_data: Path) -> None:
    suite = MbppTrainSuite()
    report = suite.report()
    assert (report.found, report.excluded_by_id, report.remaining) == (974, 654, 251)
    assert set(report.broken) == {"Mbpp/601", "Mbpp/927"}
    assert len(report.near_duplicates) == 67
    assert report.compared == {"mbpp": 378, "mbpp500": 500, "humaneval": 20, "starter-test": 30}
    hidden = suite.hidden()
    prints = []
    for task in suite.tasks():
        base = hidden[task.id].base
        assert isinstance(base, AssertGroup)
        prints.append(fingerprint(task, hidden[task.id].reference, base.asserts))
    for name in report.compared:
        assert_disjoint(prints, load_suite(name).tasks())
