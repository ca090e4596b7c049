"""EvalPlus's data sets, through its own loaders."""

from __future__ import annotations

import importlib
import socket
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from suite_rows import WriteRows, plus_row

from promptrl_plugin.errors import DataError, UnknownNameError
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.evalplus import EvalPlusSuite, convert
from promptrl_plugin.suites.hidden import CallGroup

ROW = plus_row(
    2,
    "Write a function to find the shared elements.",
    "assert f((1, 2), (2, 3)) == (2,)",
    "f",
    "def f(a, b):\n  return tuple(set(a) & set(b))",
    base_input=[[[1, 2], [2, 3]]],
    plus_input=[[[], []], [[4], [4]]],
)


def test_convert_separates_what_is_visible_from_what_grades() -> None:
    task, hidden = convert(ROW, "mine", "mbpp")
    assert (task.id, task.suite, task.dialect, task.entry_point) == ("Mbpp/2", "mine", "mbpp", "f")
    assert task.prompt == ROW["prompt"]
    assert task.visible.asserts == ("assert f((1, 2), (2, 3)) == (2,)",)
    assert hidden.reference == ROW["prompt"] + ROW["canonical_solution"]
    assert isinstance(hidden.base, CallGroup)
    assert hidden.plus is not None
    assert (hidden.base.kind, hidden.plus.kind) == ("base", "plus")
    assert (len(hidden.base.inputs), len(hidden.plus.inputs)) == (1, 2)
    assert hidden.base.reference == hidden.reference


@pytest.mark.parametrize("field", ["task_id", "prompt", "entry_point", "canonical_solution", "plus_input", "atol"])
def test_convert_names_the_field_that_is_missing(field: str) -> None:
    with pytest.raises(DataError, match=field):
        convert({k: v for k, v in ROW.items() if k != field}, "mine", "mbpp")


def test_suite_reads_the_override_of_now_and_deserialises_inputs(write_rows: WriteRows) -> None:
    module = importlib.import_module("evalplus.data.mbpp")  # has read its environment already
    before = module.MBPP_OVERRIDE_PATH
    path = write_rows("MBPP_OVERRIDE_PATH", [ROW])
    suite = EvalPlusSuite("mbpp")
    assert isinstance(suite, Suite)
    assert (suite.name, suite.evalplus_dataset, suite.data_path) == ("mbpp", "mbpp", path)
    base = suite.hidden()["Mbpp/2"].base
    assert isinstance(base, CallGroup)
    assert base.inputs == ([(1, 2), (2, 3)],), "EvalPlus makes tuples of Mbpp/2's lists"
    assert before == module.MBPP_OVERRIDE_PATH, "EvalPlus itself is left as it was"


def test_version_follows_the_content(write_rows: WriteRows) -> None:
    versions = []
    for rows in ([ROW], [ROW], [{**ROW, "plus_input": [[[9], [9]]]}], [{**ROW, "prompt": ROW["prompt"] + " "}]):
        write_rows("MBPP_OVERRIDE_PATH", rows)
        versions.append(EvalPlusSuite("mbpp").version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    assert all(v.startswith("v0.2.0+") for v in versions)


@pytest.mark.parametrize(
    "content", ["", '{"task_id": "Mb', '["no object"]\n', '{"task_id": "Mbpp/2"}\n', '{"task_id": "Mbpp/x"}\n']
)
def test_a_file_that_is_not_evalplus_data_is_a_data_error(content: str, write_rows: WriteRows) -> None:
    path = write_rows("MBPP_OVERRIDE_PATH", [])
    path.write_text(content)
    with pytest.raises(DataError, match="MBPP_OVERRIDE_PATH") as caught:
        EvalPlusSuite("mbpp")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.jsonl.gz"])
def test_an_override_that_does_not_exist_names_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", f"/nonexistent/{name}")
    with pytest.raises(DataError, match=rf"/nonexistent/{name}.*HUMANEVAL_OVERRIDE_PATH.*HumanEvalPlus\.jsonl\.gz"):
        EvalPlusSuite("humaneval")


def test_no_data_and_no_network_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[Any] = []

    def download(url: str, out: str) -> None:
        limits.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.delenv("MBPP_OVERRIDE_PATH", raising=False)
    monkeypatch.setattr("evalplus.data.mbpp.MBPP_OVERRIDE_PATH", None)
    monkeypatch.setattr("evalplus.data.utils.CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("evalplus.data.utils.wget.download", download)
    with pytest.raises(DataError, match=r"MBPP_OVERRIDE_PATH.*MbppPlus\.jsonl\.gz \(v0\.2\.0\)"):
        EvalPlusSuite("mbpp")
    assert limits
    assert limits[0] is not None, "without a limit a dead network holds the program for ever"
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == "", "EvalPlus's messages must not mix with a command's output"


def test_unknown_data_set() -> None:
    with pytest.raises(UnknownNameError, match="mbpp"):
        EvalPlusSuite("mbpp+")


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_real_data_has_what_evalplus_has(name: str, shared_data: Path) -> None:
    suite = EvalPlusSuite(name)
    data = importlib.import_module("evalplus.data")
    loader = data.get_mbpp_plus if name == "mbpp" else data.get_human_eval_plus
    module = importlib.import_module(f"evalplus.data.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, f"{name.upper()}_OVERRIDE_PATH", str(suite.data_path))
        raw = loader()
    hidden = suite.hidden()
    assert [t.id for t in suite.tasks()] == list(raw)
    for task in suite.tasks():
        groups = hidden[task.id].groups
        assert [len(g.inputs) for g in groups if isinstance(g, CallGroup)] == [
            len(raw[task.id]["base_input"]),
            len(raw[task.id]["plus_input"]),
        ]
