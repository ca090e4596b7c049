"""A comparison on the starter suite with a scripted backbone: outcomes by task, resume, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BackboneError, BundleError, ConfigError, UnknownNameError
from promptrl_plugin.evaluation import compare
from promptrl_plugin.evaluation.compare import Cell, Matrix, run_matrix, submitted_after
from promptrl_plugin.evaluation.results import bundle_of, load_results, read_results
from promptrl_plugin.harnesses.options import BackboneOptions, SolveOptions
from promptrl_plugin.records import GenerationRequest
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.storage.jsonl import read_jsonl
from promptrl_plugin.strategies.registry import shipped_policies
from promptrl_plugin.suites.registry import load_suite

MATRIX = Matrix("starter-test", BackboneOptions("scripted"), ("direct", "best-of-k"), (0, 1), 3, "visible")


SHIPPED = shipped_policies()[0]  # for another model


class Silent:
    """Listens to nothing."""

    def begin(self, label: str, done: int, total: int, samples: Path) -> None: ...
    def sample(self) -> None: ...
    def generation(self) -> None: ...
    def end(self) -> None: ...


def references() -> dict[str, str]:
    suite = load_suite("starter-test")
    hidden = suite.hidden()
    return {t.entry_point: hidden[t.id].reference for t in suite.tasks()}


REFERENCES = references()
EASY = set(sorted(REFERENCES)[::2])


def rule(request: GenerationRequest) -> str:
    """Right at once on half of the tasks; on the others at the third sample of seed 1, else wrong."""
    name = next(n for n in re.findall(r"(\w+)\(", request.prompt.plain)[::-1] if n in REFERENCES)
    if name in EASY or (request.index == 2 and request.seed == 1):
        return REFERENCES[name]
    return f"def {name}(*args):\n    return None\n"


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedBackbone:
    backbone = ScriptedBackbone(rule)
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "cache"))

    def open_backbone(options: BackboneOptions, cache: Cache) -> Backbone:
        return CachingBackbone(backbone, cache)

    monkeypatch.setattr(compare, "open_backbone", open_backbone)
    return backbone


def solve_by(monkeypatch: pytest.MonkeyPatch, name: Callable[[SolveOptions], str]) -> None:
    """Nothing is solved, with policies that are names only; samples files have the name that a function gives them."""
    monkeypatch.setattr(compare, "check_policy", lambda *_: None)

    def solve(requests: Sequence[SolveOptions], _suite: Any, _backbone: Any, _listener: Any, on_solved: Any) -> None:
        for i, options in enumerate(requests):
            on_solved(i, options.root / name(options))

    monkeypatch.setattr(compare, "solve_suites", solve)


def test_every_cell_has_an_outcome_for_every_task(tmp_path: Path, scripted: ScriptedBackbone):
    announced: list[str] = []
    results = run_matrix(MATRIX, tmp_path / "out", Silent(), lambda cell, _: announced.append(cell.name))
    assert announced == ["direct-s0", "best-of-k-s0", "best-of-k-s1"]
    assert list(results) == announced
    names = {t.id: t.entry_point for t in load_suite("starter-test").tasks()}
    for cell, outcomes in results.items():
        assert [o.task_id for o in outcomes] == list(names)
        for o in outcomes:
            easy = names[o.task_id] in EASY
            assert o.strict is o.base is (easy or cell == "best-of-k-s1")
            assert (o.soft == 1.0) is o.strict
            if cell == "direct-s0":
                assert (o.generations, o.visible, o.curve) == (1, None, (easy,) * 3)
            else:
                assert o.generations == (1 if easy else 3)
                assert o.curve == ((True,) * 3 if easy else (False, False, cell == "best-of-k-s1"))
    assert load_results(tmp_path / "out") == results
    assert list(read_results(tmp_path / "out")["samples"]) == announced
    assert read_results(tmp_path / "out")["models"] == dict.fromkeys(announced, scripted.fingerprint)
    for cell, samples in read_results(tmp_path / "out")["samples"].items():
        assert cell.rpartition("-s")[0] in samples
        assert len(read_jsonl(tmp_path / "out" / samples)) == len(names)

    made = len(scripted.requests)
    assert run_matrix(MATRIX, tmp_path / "out", Silent()) == results
    assert len(scripted.requests) == made


def test_nothing_is_judged_while_anything_is_solved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    solved: list[int] = []
    judge = compare.outcomes_of

    def outcomes_of(samples: Path, *rest: Any, **options: Any) -> list[compare.Outcome]:
        solved.append(sum(len(read_jsonl(p)) for p in samples.parent.glob("*_s[0-9]_????????.jsonl")))
        return judge(samples, *rest, **options)

    monkeypatch.setattr(compare, "outcomes_of", outcomes_of)
    results = run_matrix(MATRIX, tmp_path, Silent())
    assert solved == [sum(map(len, results.values()))] * len(results)


def test_a_broken_off_matrix_leaves_the_results_of_its_finished_cells(tmp_path: Path):
    class Stop(Exception):
        pass

    def stop(cell: Cell, _: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        run_matrix(MATRIX, tmp_path, Silent(), stop)
    assert list(load_results(tmp_path)) == ["direct-s0"]


def test_strategies_and_seeds_may_be_added_later(tmp_path: Path):
    first = run_matrix(replace(MATRIX, strategies=("direct",)), tmp_path, Silent())
    second = run_matrix(replace(MATRIX, strategies=("best-of-k",), seeds=(1,)), tmp_path, Silent())
    assert (list(first), list(second)) == (["direct-s0"], ["best-of-k-s1"])
    assert load_results(tmp_path) == first | second


def test_a_folder_of_other_settings_is_refused(tmp_path: Path):
    run_matrix(replace(MATRIX, strategies=("direct",)), tmp_path, Silent())
    with pytest.raises(ConfigError, match="budget"):
        run_matrix(replace(MATRIX, budget=4), tmp_path, Silent())


def test_both_selectors_have_a_folder_each(tmp_path: Path, scripted: ScriptedBackbone):
    matrix = replace(MATRIX, strategies=("best-of-k",), seeds=(0,))
    (first,) = run_matrix(matrix, tmp_path / "first", Silent()).values()
    (agreed,) = run_matrix(replace(matrix, selector="agreement"), tmp_path / "agreement", Silent()).values()
    easy = [o for o in agreed if o.strict]
    assert len(easy) == len(EASY)
    assert {o.generations for o in easy} == {2}, "the same program again is the second vote"
    assert {o.curve for o in easy} == {(True,) * 3}
    assert [o.strict for o in agreed] == [o.strict for o in first]
    with pytest.raises(ConfigError, match="selector"):
        run_matrix(matrix, tmp_path / "agreement", Silent())
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert "selector" not in config, "folders from before there were selectors go on"
    with pytest.raises(ConfigError, match="first, agreement"):
        run_matrix(replace(matrix, selector="vote"), tmp_path / "third", Silent())
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"strategies": ()}, ConfigError),
        ({"strategies": ("direct", "direct")}, ConfigError),
        ({"seeds": ()}, ConfigError),
        ({"strategies": ("best-of-n",)}, UnknownNameError),
        ({"suite": "starter-tests"}, UnknownNameError),
        ({"budget": 0}, ConfigError),
        ({"feedback": "all"}, ConfigError),
        ({"strategies": ("promptrl",), "policy": "nowhere"}, BundleError),
        ({"strategies": ("direct", "linucb")}, BundleError),
        ({"strategies": ("direct", "promptrl")}, BundleError),
        ({"strategies": ("direct", "random-hybrid"), "policies": (("random-hybrid", str(SHIPPED)),)}, BundleError),
        ({"backbone": BackboneOptions("scripted", base_url="http://x/v1")}, ConfigError),
        ({"protocol": "paper", "feedback": "oracle", "budget": 11}, ConfigError),
    ],
)
def test_bad_matrices_are_refused_before_anything_is_written(
    change: dict[str, Any], error: type[Exception], tmp_path: Path
):
    with pytest.raises(error):
        run_matrix(replace(MATRIX, **change), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_a_policy_that_ships_for_no_model_is_missed_before_one_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compare, "open_backbone", None)
    with pytest.raises(BundleError, match="promptrl train --learner linucb --model scripted"):
        run_matrix(replace(MATRIX, strategies=("direct", "linucb")), tmp_path / "out", Silent())


def test_a_model_that_cannot_be_had_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> Backbone:
        raise BackboneError("no server; start one")

    monkeypatch.setattr(compare, "open_backbone", fail)
    with pytest.raises(BackboneError):
        run_matrix(MATRIX, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_the_policy_of_a_cell_is_that_of_its_seed():
    matrix = Matrix("mbpp", BackboneOptions("m"), ("promptrl", "direct"), (3, 4), 6, "visible", "runs/s{seed}/bundle")
    assert matrix.cells() == [
        Cell("promptrl", 3, Path("runs/s3/bundle")),
        Cell("promptrl", 4, Path("runs/s4/bundle")),
        Cell("direct", 0),
    ]


def test_every_row_has_its_own_policy():
    policies = (("linucb", "l{seed}"), ("promptrl:no-lexical", "a{seed}"))
    rows = ("promptrl", "promptrl:no-lexical", "linucb", "gepa")
    matrix = Matrix("mbpp", BackboneOptions("m"), rows, (3,), 6, "visible", "p{seed}", policies=policies)
    cells = matrix.cells()
    assert [(c.name, c.strategy, c.policy) for c in cells] == [
        ("promptrl-s3", "promptrl", Path("p3")),
        ("promptrl:no-lexical-s3", "promptrl", Path("a3")),
        ("linucb-s3", "linucb", Path("l3")),
        ("gepa-s3", "gepa", None),
    ]
    assert matrix.options(cells[1], Path("out")).strategy.policy == Path("a3")


@pytest.mark.parametrize(
    ("strategies", "policies", "part"),
    [
        (("direct",), (("linucb", "l"),), "add linucb there"),
        (("promptrl", "promptrl:a"), (), "promptrl:a=FOLDER"),
    ],
)
def test_policies_and_rows_must_fit(strategies: tuple[str, ...], policies: tuple[tuple[str, str], ...], part: str):
    with pytest.raises(ConfigError, match=part):
        replace(MATRIX, strategies=strategies, policies=policies).cells()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"policy": "bar"}, "--policy bar is for promptrl, which --strategies direct,best-of-k does not name"),
        ({"strategies": ("linucb",), "policy": "bar"}, "--policy ROW=FOLDER"),
        ({"split": "foo"}, "use crossfit:K"),
        ({"split": "crossfit:2"}, "names none; add promptrl there, or leave out --split"),
        ({"strategies": ("promptrl",), "policy": "bar", "split": "crossfit:2"}, "have no --policy"),
        ({"config": "foo"}, "add --split crossfit:5"),
        ({"strategies": ("promptrl",), "config": "foo"}, "add --split crossfit:5"),
    ],
)
def test_what_no_row_uses_is_refused(change: dict[str, Any], part: str):
    with pytest.raises(ConfigError, match=part):
        replace(MATRIX, **change).cells()


def test_a_row_keeps_its_policy_and_rows_may_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solve_by(monkeypatch, lambda options: str(options.strategy.policy))
    monkeypatch.setattr(compare, "check_request", lambda *_: None)  # the policies are names only
    monkeypatch.setattr(compare, "outcomes_of", lambda *_, **__: [])
    first = replace(MATRIX, strategies=("linucb",), policies=(("linucb", "l"),))
    run_matrix(first, tmp_path / "out", Silent())
    added = replace(MATRIX, strategies=("promptrl:a",), policies=(("promptrl:a", "x"),))
    run_matrix(added, tmp_path / "out", Silent())
    assert list(load_results(tmp_path / "out")) == ["linucb-s0", "linucb-s1", "promptrl:a-s0", "promptrl:a-s1"]
    run_matrix(first, tmp_path / "out", Silent())
    assert read_results(tmp_path / "out")["policies"] == {"linucb": "l", "promptrl:a": "x"}
    with pytest.raises(ConfigError, match=r"another policy of promptrl:a"):
        run_matrix(replace(added, policies=(("promptrl:a", "y"),)), tmp_path / "out", Silent())


def test_a_policy_may_come_later_where_no_result_is_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solve_by(monkeypatch, lambda options: str(options.strategy.policy))
    monkeypatch.setattr(compare, "check_request", lambda *_: None)  # the policies are names only
    monkeypatch.setattr(compare, "outcomes_of", lambda *_, **__: [])
    bare = replace(MATRIX, strategies=("direct",))
    ours = replace(MATRIX, strategies=("promptrl",), policy="p{seed}")
    shipped = replace(MATRIX, strategies=("promptrl",))
    refused = "results of another policy of promptrl; use that, or another folder"

    run_matrix(bare, tmp_path / "a", Silent())
    run_matrix(ours, tmp_path / "a", Silent())
    assert bundle_of(tmp_path / "a", "promptrl", 1)[0] == Path("p1")
    run_matrix(ours, tmp_path / "a", Silent())
    run_matrix(bare, tmp_path / "a", Silent())  # what is not asked for has no policy to differ
    for other in (shipped, replace(ours, policy="q")):
        with pytest.raises(ConfigError, match=refused):
            run_matrix(other, tmp_path / "a", Silent())

    run_matrix(shipped, tmp_path / "b", Silent())
    assert bundle_of(tmp_path / "b", "promptrl", 1) == []
    with pytest.raises(ConfigError, match=refused):
        run_matrix(ours, tmp_path / "b", Silent())

    run_matrix(bare, tmp_path / "c", Silent())
    config = tmp_path / "c" / "config.json"  # an earlier version began with one that no row used
    config.write_text(json.dumps(json.loads(config.read_text()) | {"policy": "p{seed}"}))
    run_matrix(shipped, tmp_path / "c", Silent())
    assert bundle_of(tmp_path / "c", "promptrl", 1) == []

    linucb = replace(MATRIX, strategies=("linucb",))
    run_matrix(linucb, tmp_path / "d", Silent())
    with pytest.raises(ConfigError, match="another policy of linucb"):
        run_matrix(replace(linucb, policies=(("linucb", "l"),)), tmp_path / "d", Silent())


def test_a_folder_of_before_policies_were_kept_by_row_keeps_that_of_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    solve_by(monkeypatch, lambda options: str(options.strategy.policy))
    monkeypatch.setattr(compare, "check_request", lambda *_: None)
    monkeypatch.setattr(compare, "outcomes_of", lambda *_, **__: [])
    ours = replace(MATRIX, strategies=("promptrl",), policy="p")
    run_matrix(ours, tmp_path, Silent())
    results = read_results(tmp_path)
    del results["policies"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert bundle_of(tmp_path, "promptrl", 0)[0] == Path("p")
    run_matrix(ours, tmp_path, Silent())
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match="another policy of promptrl"):
        run_matrix(replace(ours, policy="q"), tmp_path, Silent())


def test_trained_rows_without_a_policy_are_cross_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solve_by(monkeypatch, lambda options: options.strategy.strategy)
    monkeypatch.setattr(compare, "solve_crossfit", lambda options, *_: options.root / f"{options.strategy.strategy}-x")
    monkeypatch.setattr(compare, "check_request", lambda *_: None)  # the policies are names only
    monkeypatch.setattr(compare, "outcomes_of", lambda *_, **__: [])
    rows = ("direct", "best-of-k", "linucb", "promptrl", "promptrl:held-out")
    policies = (("promptrl:held-out", "p"),)
    matrix = replace(MATRIX, strategies=rows, seeds=(0,), policies=policies, split="crossfit:4", config="x.toml")
    run_matrix(matrix, tmp_path, Silent())
    assert read_results(tmp_path)["samples"] == {
        "direct-s0": "direct", "best-of-k-s0": "best-of-k", "linucb-s0": "linucb-x", "promptrl-s0": "promptrl-x",
        "promptrl:held-out-s0": "promptrl",
    }  # fmt: skip
    (asked,) = (matrix.options(c, tmp_path).strategy for c in matrix.cells() if c.row == "linucb")
    assert (str(asked.split), asked.config) == ("crossfit4", Path("x.toml"))
    with pytest.raises(ConfigError, match="split"):
        run_matrix(replace(matrix, split=""), tmp_path, Silent())


def test_what_would_have_been_submitted_is_the_first_of_the_best_so_far():
    def candidate(generations: int, visible: float | None, solution: str) -> dict[str, Any]:
        return {"generations": generations, "visible": visible, "solution": solution}

    seen = [candidate(2, 0.0, " "), candidate(3, 0.0, "a"), candidate(4, 0.5, "b"), candidate(5, 0.5, "c")]
    assert [submitted_after(seen, k, "b", 5) for k in range(1, 7)] == [None, " ", "a", "b", "b", "b"]
    assert submitted_after([candidate(1, None, "x"), candidate(2, None, "y")], 1, "y", 2) == "x"
    votes = [candidate(1, 0.5, "w")] + [candidate(k, 1.0, p) for k, p in ((2, "c"), (3, "a"), (4, "b"))]
    did = [c | {"outcomes": o} for c, o in zip(votes[1:], ("1", "2", "2"), strict=True)]
    assert [submitted_after([votes[0], *did], k, "a", 5) for k in range(1, 6)] == ["w", "c", "c", "a", "a"]


def test_a_folder_without_results_says_how_to_make_them(tmp_path: Path):
    with pytest.raises(ConfigError, match="the same `promptrl compare` command again"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ConfigError, match="the same `promptrl compare` command again"):
        load_results(tmp_path)
