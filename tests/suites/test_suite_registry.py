"""Suites by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from suite_rows import WriteRows, make_task, plus_row

from promptrl_plugin import plugins
from promptrl_plugin.errors import ConfigError, DataError, UnknownNameError
from promptrl_plugin.suites.base import Suite
from promptrl_plugin.suites.registry import (
    SUITES,
    TRAIN_SUITES,
    check_evaluated,
    load_suite,
    load_train_suite,
    suite_names,
    train_suite_of,
)


class Foreign:
    """A suite of another package."""

    name, version, evalplus_dataset = "foreign", "1", None

    def tasks(self) -> list[object]:
        return [make_task("Foreign.", "assert f(1) == 2")]

    def hidden(self) -> dict[str, object]:
        return {}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "promptrl.suites"
        return [EntryPoint(name, f"{__name__}:Foreign", group) for name in ("foreign", "mbpp")]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_the_names_that_users_are_promised() -> None:
    starter = {"starter", "starter-train", "starter-test", "examples"}
    apps = {"apps", "apps-introductory", "apps-interview", "apps-competition", "apps-train"}
    assert set(SUITES) == {"mbpp", "mbpp500", "humaneval", "mbpp-train", *starter, *apps}


def test_a_name_that_is_near_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="unknown suite 'humanevall'; did you mean 'humaneval'"):
        load_suite("humanevall")


@pytest.mark.parametrize(
    ("name", "count"), [("starter", 80), ("starter-train", 50), ("starter-test", 30), ("examples", 50)]
)
def test_shipped_suites_need_no_download(name: str, count: int) -> None:
    suite = load_suite(name)
    assert isinstance(suite, Suite)
    assert suite.name == name
    assert len(suite.tasks()) == count


@pytest.mark.parametrize("name", ["mbpp", "mbpp500", "humaneval", "starter", "starter-test", "apps", "apps-interview"])
def test_what_is_evaluated_does_not_train(name: str) -> None:
    with pytest.raises(ConfigError, match=f"use --suite {TRAIN_SUITES[name]}, .*--suite {name} --split crossfit:5"):
        load_train_suite(name)
    assert TRAIN_SUITES[name] not in TRAIN_SUITES


def test_what_trains_is_loaded_and_a_misspelt_name_suggested() -> None:
    assert load_train_suite("starter-train").tasks() == load_suite("starter-train").tasks()
    with pytest.raises(UnknownNameError, match="starter-train"):
        load_train_suite("starter-trian")


def test_each_call_reads_the_data_of_now(write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    row = plus_row(1, "Do it.", "assert f(1) == 2", "f", "def f(x):\n  return 2")
    write_rows("MBPP_OVERRIDE_PATH", [row])
    assert [t.id for t in load_suite("mbpp").tasks()] == ["Mbpp/1"]
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", "/nonexistent/file")
    with pytest.raises(DataError):
        load_suite("mbpp")


@pytest.mark.usefixtures("foreign")
def test_another_package_adds_a_suite_but_cannot_take_a_name(write_rows: WriteRows) -> None:
    write_rows("MBPP_OVERRIDE_PATH", [plus_row(1, "Do it.", "assert f(1) == 2", "f", "def f(x):\n  return 2")])
    assert isinstance(load_suite("foreign"), Foreign)
    assert suite_names() == (*SUITES, "foreign")
    assert load_suite("mbpp").name == "mbpp"
    with pytest.raises(UnknownNameError, match="foreign"):
        load_suite("foreing")


@pytest.mark.usefixtures("foreign")
def test_a_suite_of_another_package_says_whether_it_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_suite_of(load_train_suite("foreign")) is None
    for instead, said in (
        (
            "foreign-train",
            r"foreign is evaluated and must not train; use --suite foreign-train, or let `promptrl solve",
        ),
        ("", r"foreign is evaluated and must not train; let `promptrl solve --suite foreign --split"),
    ):
        monkeypatch.setattr(Foreign, "train_suite", instead, raising=False)
        assert train_suite_of(load_suite("foreign")) == instead
        with pytest.raises(ConfigError, match=said):
            load_train_suite("foreign")
    monkeypatch.setattr(Foreign, "train_suite", True, raising=False)
    with pytest.raises(ConfigError, match="must be a suite's name, not True"):
        load_train_suite("foreign")


def test_every_shipped_suite_is_for_one_or_the_other() -> None:
    kinds = {
        name: train_suite_of(load_suite(name)) for name in ("starter", "starter-train", "starter-test", "examples")
    }
    assert kinds == {
        "starter": "starter-train",
        "starter-train": None,
        "starter-test": "starter-train",
        "examples": None,
    }


def test_listing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from promptrl_plugin.suites.registry import suite_names; suite_names(); "
        "sys.exit(any(m in sys.modules for m in ('evalplus', 'datasets', 'torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_suite_that_trains_names_those_that_are_evaluated():
    for name, instead in (("apps-train", "apps or apps-introductory or"), ("examples", "mbpp or mbpp500 or")):
        with pytest.raises(ConfigError, match=f"suite {name} trains and is not evaluated; use --suite {instead}"):
            check_evaluated(name)
    for name in (*TRAIN_SUITES, "foreign"):
        check_evaluated(name)
