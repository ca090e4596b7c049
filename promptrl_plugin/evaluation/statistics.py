"""Is the difference between two strategies more than chance? Intervals and paired tests.

The unit is the task. Seeds are repeated measurements on the same tasks, not new tasks, so resampling draws
tasks (all seeds of a task stay together) and, independently, seeds (all tasks of a seed stay together).
"""

from __future__ import annotations

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
    "holm",
    "mcnemar_exact",
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
        mcnemar_p: Two-sided exact p of wins against losses.
        bootstrap_p: Two-sided p of the paired bootstrap.
        mcnemar_holm, bootstrap_holm: The same, corrected over all comparisons (Holm 1979).
    """

    name: str
    difference: Interval
    wins: int
    losses: int
    mcnemar_p: float
    bootstrap_p: float
    mcnemar_holm: float
    bootstrap_holm: float


def bootstrap_interval(scores: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of `scores` ``[seeds, tasks]`` with a percentile interval over tasks × seeds (Efron 1979).

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
    means = _resampled(differences, resamples, seed)
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


def mcnemar_exact(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> tuple[int, int, float]:
    """Wins, losses, and the exact two-sided p that a decided task is as likely won as lost.

    With one seed this is McNemar's test (McNemar 1947); with several its kin on shares of seeds, the sign test (Dixon
    and Mood 1946). Both are ``[seeds, tasks]``.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    wins, losses = (int(tasks.sum()) for tasks in won_and_lost(ours, theirs))
    return wins, losses, float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)  # it looks at these two only


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
        tested.append((name, difference, *mcnemar_exact(ours, theirs), bootstrap_p))
    mcnemar_holm = holm([row[4] for row in tested])
    bootstrap_holm = holm([row[5] for row in tested])
    return [
        Comparison(name, difference, wins, losses, mcnemar_p, bootstrap_p, m, b)
        for (name, difference, wins, losses, mcnemar_p, bootstrap_p), m, b in zip(
            tested, mcnemar_holm, bootstrap_holm, strict=True
        )
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    """Means of `values` with rows and columns drawn anew with replacement, ``[resamples]``."""
    rng = np.random.default_rng(seed)
    seeds, tasks = values.shape
    means = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(tasks, size=tasks)
        means[i] = values.mean(axis=0)[columns].mean() if seeds == 1 else values[rows].mean(axis=0)[columns].mean()
    return means


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
