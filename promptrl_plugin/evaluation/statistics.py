"""Is the difference between two strategies more than chance? Intervals and paired tests.

The unit is the task. Seeds are repeated measurements on the same tasks, not new tasks: resampling draws tasks, and
all seeds of a task stay together. What a seed does to all tasks at once (a training that went well) is a second
source of variation, estimated from the seeds' means and added (`bootstrap_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "compare_pairs",
    "compare_to",
    "exact_test",
    "holm",
    "paired_bootstrap",
    "won_and_lost",
]

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the percentile interval of its bootstrap distribution, and its spread over seeds.

    Attributes:
        mean: Over tasks and seeds.
        low, high: Bounds of the interval.
        seed_std: Standard deviation of the seeds' means (n − 1), 0 with one seed.
    """

    mean: float
    low: float
    high: float
    seed_std: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One strategy against another on the same tasks and seeds.

    Attributes:
        name: Of the other strategy.
        difference: Mean score of the strategy minus that of the other, with its interval.
        wins, losses: Tasks that one of the two solves in a larger share of its seeds (`won_and_lost`).
        exact_p: Two-sided p of the exact test of the difference (`exact_test`; with one seed McNemar's).
        bootstrap_p: Two-sided p of the paired bootstrap.
        exact_holm, bootstrap_holm: The same, corrected over all comparisons (Holm 1979).
    """

    name: str
    difference: Interval
    wins: int
    losses: int
    exact_p: float
    bootstrap_p: float
    exact_holm: float
    bootstrap_holm: float


def bootstrap_interval(scores: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of `scores` ``[seeds, tasks]`` with a percentile interval over tasks and seeds.

    Tasks are drawn with replacement (Efron 1979), each with the mean of its seeds. Variation that a seed brings to all
    tasks is not in that; its variance ``σ²`` is what the seeds' means vary by beyond what the tasks explain (the
    two-way analysis of variance of random effects, 0 at least), and ``σ/√seeds · t`` is added to each resample, with
    ``t`` of ``seeds − 1`` degrees of freedom, as few seeds tell `σ`. (Drawing seeds with replacement, too, would count
    the variation of single outcomes more than twice: Owen 2007, "The pigeonhole bootstrap".)

    Raises:
        ValueError: `scores` is not a matrix, or is empty.
    """
    values = _matrix(scores)
    means = _resampled(values, resamples, seed)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    by_seed = values.mean(axis=1)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
    return Interval(float(values.mean()), float(low), float(high), spread)


def paired_bootstrap(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Interval, float]:
    """Difference ``mean(ours) − mean(theirs)`` with its interval, and a two-sided p that it is 0.

    Both are ``[seeds, tasks]`` in the same order of tasks; a strategy that does not depend on the seed may
    have one row, which then stands for every seed. The p-value is twice the smaller share of resampled
    differences on either side of 0, ties counting half to each, at least ``1 / resamples``.

    Raises:
        ValueError: The shapes do not match.
    """
    differences = _paired(ours, theirs)
    means = np.round(_resampled(differences, resamples, seed), 12)  # so that sums that cancel are ties
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    below = float((means < 0).mean() + (means == 0).mean() / 2)
    p = min(1.0, max(2 * min(below, 1 - below), 1 / resamples))
    by_seed = differences.mean(axis=1)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
    return Interval(float(differences.mean()), float(low), float(high), spread), p


def won_and_lost(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tasks ``[tasks]`` that ours, and that theirs, solves in the larger share of its seeds.

    Both are ``[seeds, tasks]`` in the same order of tasks. (A majority of seeds would favour whoever varies less: of
    two seeds, one solved would count as none.)

    Raises:
        ValueError: The tasks do not match.
    """
    a, b = _matrix(ours).mean(axis=0), _matrix(theirs).mean(axis=0)
    if a.shape != b.shape:
        raise ValueError(f"the sides have {len(a)} and {len(b)} tasks")
    return np.asarray(a > b), np.asarray(b > a)


def exact_test(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> tuple[int, int, float]:
    """Wins, losses (`won_and_lost`), and the exact two-sided p that the mean scores are equal.

    The test flips the signs of the tasks' differences (Fisher's randomization test): p is the share of the ``2^tasks``
    choices of signs whose sum is at least as far from 0 as the one observed. With one seed it is McNemar's exact test
    (McNemar 1947). With several it weighs a task by how much it differs; counting wins and losses alone (the sign
    test) would favour whoever varies less where most tasks are solved.

    Args:
        ours, theirs: Solved or not, ``[seeds, tasks]`` of 0 and 1; the numbers of seeds may differ.

    Raises:
        ValueError: The tasks do not match, or a score is not 0 or 1.
    """
    won, lost = won_and_lost(ours, theirs)
    a, b = _matrix(ours), _matrix(theirs)
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("the exact test takes scores of 0 and 1")
    unit = math.lcm(len(a), len(b))
    differences = np.rint(a.sum(axis=0) * (unit // len(a)) - b.sum(axis=0) * (unit // len(b))).astype(int)
    sizes = np.abs(differences)
    distribution = np.ones(1)  # of the sum of the sizes with a plus: the probability of 0, 1, 2, …
    for size in sizes[sizes > 0]:
        distribution = (np.pad(distribution, (0, size)) + np.pad(distribution, (size, 0))) / 2
    sums = 2 * np.arange(len(distribution)) - sizes.sum()
    p = float(distribution[np.abs(sums) >= abs(differences.sum())].sum())
    return int(won.sum()), int(lost.sum()), min(1.0, p)


def compare_to(
    ours: npt.ArrayLike, others: Mapping[str, npt.ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare strict scores (0 or 1) with each of `others`; p-values are corrected over all of them.

    Args:
        ours: ``[seeds, tasks]``.
        others: The same by the name of the strategy.
        resamples, seed: Of the bootstrap.
    """
    return compare_pairs({name: (ours, theirs) for name, theirs in others.items()}, resamples=resamples, seed=seed)


def compare_pairs(
    pairs: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """`compare_to` where each of the others was run with seeds of its own: pairs of ours and theirs by name."""
    tested = []
    for name, (ours, theirs) in pairs.items():
        difference, bootstrap_p = paired_bootstrap(ours, theirs, resamples=resamples, seed=seed)
        tested.append((name, difference, *exact_test(ours, theirs), bootstrap_p))
    exact_holm = holm([row[4] for row in tested])
    bootstrap_holm = holm([row[5] for row in tested])
    return [
        Comparison(name, difference, wins, losses, exact_p, bootstrap_p, e, b)
        for (name, difference, wins, losses, exact_p, bootstrap_p), e, b in zip(
            tested, exact_holm, bootstrap_holm, strict=True
        )
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    """Resampled means of `values`, ``[resamples]``; see `bootstrap_interval`."""
    rng = np.random.default_rng(seed)
    seeds, tasks = values.shape
    of_tasks = values.mean(axis=0)
    means = np.array([of_tasks[rng.integers(tasks, size=tasks)].mean() for _ in range(resamples)])
    if (deviation := _seed_deviation(values)) > 0:
        means += deviation / math.sqrt(seeds) * rng.standard_t(seeds - 1, size=resamples)
    clipped: Floats = np.clip(means, values.min(), values.max())  # no mean lies beyond every score
    return clipped


def _seed_deviation(values: Floats) -> float:
    """Standard deviation of what a seed does to all tasks at once, 0 where their means vary no more than by chance."""
    seeds, tasks = values.shape
    if min(seeds, tasks) < 2:
        return 0.0
    of_seeds, of_tasks = values.mean(axis=1, keepdims=True), values.mean(axis=0)
    rest = values - of_seeds - of_tasks + values.mean()
    interaction = float((rest**2).sum() / ((seeds - 1) * (tasks - 1)))
    return math.sqrt(max(0.0, float(of_seeds.var(ddof=1)) - interaction / tasks))


def _paired(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> Floats:
    a, b = _matrix(ours), _matrix(theirs)
    if a.shape[1] != b.shape[1] or (a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0])):
        raise ValueError(f"scores of shapes {a.shape} and {b.shape} are not of the same seeds and tasks")
    return np.asarray(a - b, dtype=np.float64)


def _matrix(scores: npt.ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"scores must be [seeds, tasks] and not empty, not of shape {values.shape}")
    return values
