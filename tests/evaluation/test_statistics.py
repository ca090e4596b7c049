"""Intervals that cover as often as they say, tests that reject as rarely as they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from promptrl_plugin.evaluation.statistics import (
    bootstrap_interval,
    compare_to,
    exact_test,
    paired_bootstrap,
    won_and_lost,
)


def coin(p: float, seeds: int, tasks: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((seeds, tasks)) < p).astype(float)


def test_one_seed_gives_the_percentile_interval_of_scipy():
    scores = coin(0.4, 1, 200, np.random.default_rng(1))
    ours = bootstrap_interval(scores, resamples=5000)
    theirs = bootstrap((scores[0],), np.mean, method="percentile", n_resamples=5000, rng=2).confidence_interval
    assert ours.mean == scores.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.seed_std == 0


def test_repeating_the_same_tasks_with_more_seeds_does_not_make_them_more_tasks():
    one = coin(0.4, 1, 100, np.random.default_rng(2))
    repeated = bootstrap_interval(np.repeat(one, 8, axis=0), resamples=4000)
    alone = bootstrap_interval(one, resamples=4000)
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(3)
    steady = np.repeat(coin(0.5, 1, 100, rng), 3, axis=0)
    shaky = np.stack([np.ones(100), np.zeros(100), steady[0]])
    wide, narrow = bootstrap_interval(shaky, resamples=2000), bootstrap_interval(steady, resamples=2000)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.seed_std == pytest.approx(np.std([1, 0, steady[0].mean()], ddof=1))


def test_no_bound_lies_beyond_every_score():
    few = np.ones((3, 20))
    few[0, :1] = few[1, :3] = 0
    interval = bootstrap_interval(few, resamples=2000)
    assert 0.7 < interval.low < few.mean() < interval.high <= 1


def test_the_paired_test_uses_the_pairing():
    """Five tasks won and none lost: clear for pairs, invisible for two separate means."""
    theirs = coin(0.5, 1, 300, np.random.default_rng(4))
    ours = theirs.copy()
    ours[0, np.flatnonzero(theirs[0] == 0)[:8]] = 1
    difference, p = paired_bootstrap(ours, theirs, resamples=4000)
    assert difference.mean == pytest.approx(8 / 300)
    assert difference.low > 0
    assert p < 0.01
    assert bootstrap_interval(ours).low < bootstrap_interval(theirs).high


@pytest.mark.parametrize(("seeds", "effect"), [(1, 0.0), (3, 0.0), (3, 0.02)])
def test_under_the_null_small_p_values_are_as_rare_as_they_should_be(seeds: int, effect: float):
    """Two runs of one strategy, whose seeds may lift or lower all tasks."""
    rng = np.random.default_rng(5)

    def run(solved: np.ndarray) -> np.ndarray:
        lift = rng.normal(0, effect, (seeds, 1)) if effect else 0.0
        return (rng.random((seeds, len(solved))) < np.clip(solved + lift, 0, 1)).astype(float)

    p_values = []
    for i in range(300):
        solved = rng.beta(0.5, 0.5, 100)
        p_values.append(paired_bootstrap(run(solved), run(solved), resamples=400, seed=i)[1])
    assert 0.015 <= np.mean(np.array(p_values) < 0.05) <= 0.1


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_the_mean_as_often_as_they_say(seeds: int):
    rng, covered = np.random.default_rng(6), 0
    for i in range(300):
        solved = rng.beta(0.5, 0.5, 100)
        interval = bootstrap_interval((rng.random((seeds, 100)) < solved).astype(float), resamples=400, seed=i)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_a_strategy_without_seeds_is_paired_with_every_seed():
    ours, theirs = coin(0.6, 3, 50, np.random.default_rng(6)), coin(0.4, 1, 50, np.random.default_rng(7))
    difference, _ = paired_bootstrap(ours, theirs, resamples=200)
    assert difference.mean == pytest.approx(ours.mean() - theirs.mean())
    with pytest.raises(ValueError, match="not of the same seeds and tasks"):
        paired_bootstrap(ours, theirs[:, :-1])
    with pytest.raises(ValueError, match="not of the same seeds and tasks"):
        paired_bootstrap(ours, ours[:2])


def test_with_one_seed_the_exact_test_is_mcnemars():
    ours = [[1, 1, 1, 1, 1, 1, 0, 1, 0]]
    theirs = [[0, 0, 0, 0, 0, 0, 1, 1, 0]]
    wins, losses, p = exact_test(ours, theirs)
    assert (wins, losses) == (6, 1)
    assert p == pytest.approx(binomtest(1, 7).pvalue)
    assert p == pytest.approx(mcnemar([[1, 6], [1, 1]], exact=True).pvalue)
    assert exact_test(ours, ours) == (0, 0, 1.0)


def test_a_task_is_won_by_the_larger_share_of_seeds():
    won, lost = won_and_lost([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]], [[1, 1, 0, 0, 1]])
    assert (won.tolist(), lost.tolist()) == ([False, False, False, True, False], [False, True, False, False, True])
    with pytest.raises(ValueError, match="2 and 3 tasks"):
        won_and_lost([[1, 0]], [[1, 0, 1]])


def test_the_exact_test_is_the_share_of_signs_that_reach_as_far():
    """Against all 2^9 choices of signs, of differences in thirds and halves."""
    rng = np.random.default_rng(9)
    ours, theirs = coin(0.7, 3, 9, rng), coin(0.4, 2, 9, rng)
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    signs = np.array(list(product((-1, 1), repeat=9)))
    reach = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    assert exact_test(ours, theirs)[2] == pytest.approx(reach.mean())
    with pytest.raises(ValueError, match="0 and 1"):
        exact_test(ours / 2, theirs)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_who_varies_less_does_not_win_by_that_alone(seeds: int):
    """140 tasks always solved, 28 never, against 0.9 and 0.5 of the time: equal means, whose sign test would call
    three seeds different in a third of all comparisons."""
    rng = np.random.default_rng(3)
    steady, shaky = np.repeat([1.0, 0.0], [140, 28]), np.repeat([0.9, 0.5], [140, 28])
    rejected = 0
    for _ in range(200):
        drawn = rng.integers(168, size=168)
        ours = np.tile(steady[drawn], (seeds, 1))
        rejected += exact_test(ours, (rng.random((seeds, 168)) < shaky[drawn]).astype(float))[2] < 0.05
    assert rejected / 200 < 0.1


def test_p_values_are_corrected_over_all_comparisons():
    rng = np.random.default_rng(8)
    ours = coin(0.7, 3, 120, rng)
    others = {"worse": coin(0.3, 3, 120, rng), "same": ours.copy(), "near": coin(0.65, 3, 120, rng)}
    rows = {c.name: c for c in compare_to(ours, others, resamples=1000)}
    assert list(rows) == list(others)
    assert rows["same"].difference.mean == 0
    assert rows["same"].bootstrap_p == rows["same"].exact_p == 1
    assert rows["worse"].exact_holm == pytest.approx(3 * rows["worse"].exact_p)
    assert all(c.exact_holm >= c.exact_p and c.bootstrap_holm >= c.bootstrap_p for c in rows.values())
    assert compare_to(ours, {}) == []


@pytest.mark.parametrize("bad", [[], [1, 0, 1], [[]]])
def test_scores_must_be_a_matrix(bad: list[object]):
    with pytest.raises(ValueError, match="seeds, tasks"):
        bootstrap_interval(bad)
