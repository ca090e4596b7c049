"""The figures of a comparison, against what can be counted by hand."""

from __future__ import annotations

import pytest
from comparison_folder import CELLS, TASKS, best_of_k, direct, promptrl

from promptrl_plugin.errors import ConfigError
from promptrl_plugin.evaluation.summary import (
    CurvePoint,
    Spending,
    by_strategy,
    contests,
    reference_of,
    summarise,
)


def test_a_summary_counts_over_tasks_and_seeds():
    s = summarise("promptrl", {0: promptrl(0), 1: promptrl(1)})
    assert (s.seeds, s.tasks) == ((0, 1), 4)
    assert s.strict.mean == s.base == 5 / 8
    assert s.soft.mean == (5 + 3 * 0.5) / 8
    assert s.strict.seed_std == pytest.approx(0.25 / 2**0.5)
    assert (s.visible, s.gap, s.false_visible) == (6 / 8, 1 / 8, 1 / 6)
    assert s.generations == Spending(16 / 8, 16 / 5)
    assert s.tokens == Spending(1600 / 8, 1600 / 5)
    assert s.curve == (CurvePoint(1, 1.0, 1 / 8), CurvePoint(2, 1.75, 5 / 8), CurvePoint(3, 2.0, 5 / 8))


def test_what_a_strategy_does_not_look_at_or_never_reaches_is_none():
    s = summarise("direct", {0: [o for o in direct() if not o.strict]})
    assert (s.visible, s.gap, s.false_visible) == (None, None, None)
    assert s.generations == Spending(1.0, None)


def test_contests_name_the_tasks_and_the_budget_that_decide_them():
    strategies = by_strategy(CELLS)
    one, other = contests(strategies, "promptrl")
    assert (one.strict.name, other.strict.name) == ("direct", "best-of-k")
    assert (one.won, one.lost) == (("T/2", "T/3"), ("T/1",))  # T/1: one of two seeds against both
    assert (other.won, other.lost) == (("T/3",), ("T/1",))
    assert (one.strict.wins, one.strict.losses) == (2, 1)
    assert one.strict.difference.mean == pytest.approx(5 / 8 - 2 / 8)
    assert one.soft.mean == pytest.approx((6.5 - 5) / 8)
    assert one.soft_holm >= one.soft_p
    assert one.reach == other.reach == CurvePoint(2, 1.75, 5 / 8)
    assert (one.theirs, other.theirs) == (1.0, 9 / 4)


def test_a_pass_rate_out_of_reach_is_none():
    (contest,) = contests({"direct": {0: direct()}, "best-of-k": {0: best_of_k()}}, "direct")
    assert contest.reach is None


def test_strategies_are_paired_on_the_seeds_that_both_have():
    ours = {0: promptrl(0), 1: promptrl(1)}
    (contest,) = contests({"a": ours, "b": {1: best_of_k(), 2: direct()}}, "a")
    assert contest.strict.difference.mean == pytest.approx(3 / 4 - 2 / 4)
    assert contests({"a": ours, "b": {2: best_of_k(), 3: direct()}}, "a") == []


def test_one_seed_stands_for_the_others_only_where_nothing_is_drawn():
    ours = {0: promptrl(0), 1: promptrl(1)}
    (contest,) = contests({"promptrl": ours, "best-of-k": {1: best_of_k()}}, "promptrl")
    assert contest.strict.difference.mean == pytest.approx(3 / 4 - 2 / 4)
    assert contests({"promptrl": ours, "best-of-k": {7: best_of_k()}}, "promptrl") == []
    (contest,) = contests({"promptrl": ours, "direct": {0: direct()}}, "promptrl")
    assert contest.strict.difference.mean == pytest.approx(5 / 8 - 2 / 8)


def test_labels_may_hold_any_sign():
    cells = {"promptrl:no-semantic-s0": promptrl(0), "x-s-s12": promptrl(1)}
    assert by_strategy(cells) == {"promptrl:no-semantic": {0: promptrl(0)}, "x-s": {12: promptrl(1)}}
    assert reference_of(["direct", "promptrl", "x"]) == "promptrl"
    assert reference_of(["direct", "x"]) == "x"


def test_cells_of_other_tasks_are_refused():
    with pytest.raises(ConfigError, match="b-s0 is of other tasks"):
        by_strategy({"a-s0": direct(), "b-s0": direct()[: len(TASKS) - 1]})
    with pytest.raises(ConfigError, match="promptrl compare"):
        by_strategy({})
