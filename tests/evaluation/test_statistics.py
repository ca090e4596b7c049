"""Intervals that cover as often as they say, tests that reject as rarely as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from promptrl_plugin.evaluation.statistics import (
    bootstrap_interval,
    compare_to,
    mcnemar_exact,
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


def test_under_the_null_small_p_values_are_as_rare_as_they_should_be():
    rng = np.random.default_rng(5)
    p_values = [
        paired_bootstrap(coin(0.5, 1, 80, rng), coin(0.5, 1, 80, rng), resamples=400, seed=i)[1] for i in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.11


def test_a_strategy_without_seeds_is_paired_with_every_seed():
    ours, theirs = coin(0.6, 3, 50, np.random.default_rng(6)), coin(0.4, 1, 50, np.random.default_rng(7))
    difference, _ = paired_bootstrap(ours, theirs, resamples=200)
    assert difference.mean == pytest.approx(ours.mean() - theirs.mean())
    with pytest.raises(ValueError, match="not of the same seeds and tasks"):
        paired_bootstrap(ours, theirs[:, :-1])
    with pytest.raises(ValueError, match="not of the same seeds and tasks"):
        paired_bootstrap(ours, ours[:2])


def test_mcnemar_is_the_binomial_test_of_wins_against_losses():
    ours = [[1, 1, 1, 1, 1, 1, 0, 1, 0]]
    theirs = [[0, 0, 0, 0, 0, 0, 1, 1, 0]]
    wins, losses, p = mcnemar_exact(ours, theirs)
    assert (wins, losses) == (6, 1)
    assert p == pytest.approx(binomtest(1, 7).pvalue)
    assert p == pytest.approx(mcnemar([[1, 6], [1, 1]], exact=True).pvalue)
    assert mcnemar_exact(ours, ours) == (0, 0, 1.0)


def test_a_task_is_won_by_the_larger_share_of_seeds():
    won, lost = won_and_lost([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]], [[1, 1, 0, 0, 1]])
    assert (won.tolist(), lost.tolist()) == ([False, False, False, True, False], [False, True, False, False, True])
    with pytest.raises(ValueError, match="2 and 3 tasks"):
        won_and_lost([[1, 0]], [[1, 0, 1]])


@pytest.mark.parametrize("seeds", [2, 3])
def test_who_varies_less_does_not_win_by_that_alone(seeds: int):
    """Half of the tasks always solved against every task in half of its runs: the same mean, and no p below 5 %."""
    rng = np.random.default_rng(3)
    steady = np.tile(np.arange(400) % 2, (seeds, 1))
    p_values = [mcnemar_exact(steady, coin(0.5, seeds, 400, rng))[2] for _ in range(200)]
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_p_values_are_corrected_over_all_comparisons():
    rng = np.random.default_rng(8)
    ours = coin(0.7, 3, 120, rng)
    others = {"worse": coin(0.3, 3, 120, rng), "same": ours.copy(), "near": coin(0.65, 3, 120, rng)}
    rows = {c.name: c for c in compare_to(ours, others, resamples=1000)}
    assert list(rows) == list(others)
    assert rows["same"].difference.mean == 0
    assert rows["same"].bootstrap_p == rows["same"].mcnemar_p == 1
    assert rows["worse"].mcnemar_holm == pytest.approx(3 * rows["worse"].mcnemar_p)
    assert all(c.mcnemar_holm >= c.mcnemar_p and c.bootstrap_holm >= c.bootstrap_p for c in rows.values())
    assert compare_to(ours, {}) == []


@pytest.mark.parametrize("bad", [[], [1, 0, 1], [[]]])
def test_scores_must_be_a_matrix(bad: list[object]):
    with pytest.raises(ValueError, match="seeds, tasks"):
        bootstrap_interval(bad)
