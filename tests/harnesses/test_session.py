"""From options to samples, with a scripted backbone and the real judge."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness_doubles as doubles
import pytest

from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BackboneError, BundleError, ConfigError, DataError, UnknownNameError
from promptrl_plugin.harnesses import session
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions, StrategyOptions
from promptrl_plugin.harnesses.samples import sibling
from promptrl_plugin.records import Feedback
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.suites.registry import load_suite


class Counter:
    """A listener that counts."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.samples = self.generations = self.ended = 0

    def begin(self, label: str, done: int, total: int, samples: Path) -> None:
        self.begun.append((label, done, total))

    def sample(self) -> None:
        self.samples += 1

    def generation(self) -> None:
        self.generations += 1

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(doubles.write_override(tmp_path / "mbpp.jsonl")))
    return load_suite("mbpp")


def options(tmp_path: Path, **strategy: Any) -> SolveOptions:
    given = {"strategy": "direct", **strategy}
    return SolveOptions(StrategyOptions.parse(given), BackboneOptions("m"), root=tmp_path / "out")


def right_and_wrong() -> ScriptedBackbone:
    """Wrong when greedy, right at the second draw."""
    right = doubles.answers(doubles.program)
    wrong = doubles.answers(doubles.wrong)

    def rule(request: Any) -> str:
        use = right if request.index == 1 and not request.decoding.greedy else wrong
        return use(request.prompt.messages[-1].content, {})

    return ScriptedBackbone(rule)


def test_second_run_solves_only_what_is_missing(suite: Any, tmp_path: Path) -> None:
    first, second = Counter(), Counter()
    backbone = ScriptedBackbone(lambda r: doubles.answers(doubles.program)(r.prompt.messages[-1].content, {}))
    chosen = options(tmp_path)
    session.solve_suite(replace(chosen, id_range=(0, 10**6)), suite, backbone, first)
    path = session.solve_suite(chosen, suite, backbone, second)
    assert (first.begun, first.samples, first.generations) == ([("direct", 0, 3)], 3, 3)
    assert (second.begun, second.samples, second.generations) == ([("direct", 3, 3)], 0, 0)
    assert first.ended == second.ended == 1
    assert [s["task_id"] for s in doubles.lines(path)] == [t.id for t in suite.tasks()]


def test_several_strategies_are_solved_together_and_told_in_order(suite: Any, tmp_path: Path) -> None:
    asked = [
        options(tmp_path, strategy="direct"),
        options(tmp_path, strategy="best-of-k", budget=3),
        options(tmp_path, strategy="best-of-k", budget=3, seed=1),
        options(tmp_path, strategy="best-of-k", budget=1),
    ]
    apart = [replace(o, root=tmp_path / "alone") for o in asked]
    alone = [session.solve_suite(o, suite, right_and_wrong(), Counter()) for o in apart]
    told: list[tuple[int, Path]] = []
    listener = Counter()
    paths = session.solve_suites(asked, suite, right_and_wrong(), listener, lambda i, path: told.append((i, path)))
    assert told == list(enumerate(paths))
    assert listener.begun == [("direct", 0, 3), ("best-of-k", 0, 9)]
    for mine, theirs in zip(paths, alone, strict=True):
        assert mine.name == theirs.name
        for end in (".jsonl", ".raw.jsonl", ".trace.jsonl"):
            files = [sorted(json.dumps(x) for x in doubles.lines(sibling(p, end))) for p in (mine, theirs)]
            assert files[0] == files[1]
    again, more = Counter(), [*asked, options(tmp_path, strategy="best-of-k", budget=3, seed=2)]
    session.solve_suites(more, suite, right_and_wrong(), again)
    assert (again.begun[1], again.samples) == (("best-of-k", 9, 12), 3)


def test_id_range_is_evalplus_half_open_one(suite: Any, tmp_path: Path) -> None:
    numbers = [int(t.id.rpartition("/")[2]) for t in suite.tasks()]
    chosen = session.select(suite.tasks(), (numbers[0], numbers[1]))
    assert [t.id for t in chosen] == [suite.tasks()[0].id]
    with pytest.raises(ConfigError, match="--id_range"):
        session.select(suite.tasks(), (10**6, 10**6 + 1))


def test_visible_feedback_reaches_the_strategy(suite: Any, tmp_path: Path) -> None:
    shown = session.solve_suite(options(tmp_path, strategy="best-of-k", budget=3), suite, right_and_wrong(), Counter())
    programs = {r["task_id"]: r["entry_point"] for r in doubles.rows()}
    traces = list(doubles.lines(shown.with_name(shown.name.replace(".jsonl", ".trace.jsonl"))))
    assert len(traces) == len(programs) == 3
    assert {t["visible_status"] for t in traces} == {"pass"}


def test_names_keep_configurations_apart(suite: Any, tmp_path: Path) -> None:
    backbone = right_and_wrong()
    paths = {
        session.solve_suite(options(tmp_path, strategy="best-of-k", **kw), suite, backbone, Counter())
        for kw in ({"budget": 2}, {"budget": 3}, {"budget": 2, "seed": 1}, {"budget": 2, "feedback": "oracle"})
    }
    assert len(paths) == 4
    assert sum("oracle" in p.name for p in paths) == 1


def test_no_feedback_needs_no_judge(suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import ExitStack

    monkeypatch.setitem(__import__("sys").modules, "promptrl_plugin.checking.judge", None)
    with ExitStack() as stack:
        checker = session.open_checker(Feedback.NONE, suite, stack)
        assert checker([(suite.tasks()[0], "x = 1")]) == [None]


def test_failure_ends_the_display_and_keeps_what_is_done(suite: Any, tmp_path: Path) -> None:
    def rule(_request: Any) -> str:
        raise BackboneError("server gone")

    listener = Counter()
    with pytest.raises(BackboneError):
        session.solve_suite(options(tmp_path), suite, ScriptedBackbone(rule), listener)
    assert listener.ended == 1


def without_tests(folder: Path) -> Path:
    """Tasks whose prompts show no test."""
    rows = [r | {"prompt": re.sub(r"\nassert [^\n]*", "", r["prompt"])} for r in doubles.rows()]
    path = folder / "bare.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_a_suite_without_visible_tests_is_refused_before_anything_is_loaded_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(without_tests(tmp_path)))
    monkeypatch.setattr(session, "open_backbone", None)
    with pytest.raises(DataError, match="--feedback none"):
        session.run(options(tmp_path, strategy="best-of-k"), Counter())
    assert not (tmp_path / "out").exists()
    session.check_visible(Feedback.NONE, load_suite("mbpp"))


def test_a_policy_that_is_not_there_is_reported_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "open_backbone", None)
    with pytest.raises(BundleError, match="promptrl train"):
        session.run(options(tmp_path, strategy="promptrl", policy=tmp_path / "nowhere"), Counter())


def test_unknown_names(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="best-of-k"):
        session.open_strategy(StrategyOptions.parse({"strategy": "best-of-n"}), right_and_wrong())
    with pytest.raises(UnknownNameError), Cache(tmp_path / "c.sqlite") as cache:
        session.open_backbone(BackboneOptions("m", "hff"), cache)


def test_force_base_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptrl_plugin.backbones import registry

    monkeypatch.setattr(registry, "load_backbone", lambda *_a, **_k: ScriptedBackbone({"": "x"}))
    with Cache(tmp_path / "c.sqlite") as cache:
        backbone = session.open_backbone(BackboneOptions("m", force_base_prompt=True), cache)
        assert isinstance(backbone, CachingBackbone)
        assert not backbone.chat
        with pytest.raises(ConfigError, match="--force_base_prompt"):
            session.open_backbone(BackboneOptions("m", "openai", force_base_prompt=True), cache)
