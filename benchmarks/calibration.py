#!/usr/bin/env python3
"""How often the tests of `promptrl compare` call equal strategies different, and how often intervals hold the mean.

    python benchmarks/calibration.py [--trials 400] [--out FILE]

Everything is drawn from known distributions, so the right answer is 5 % (and 95 %). Three worlds: two runs of one
strategy whose tasks are solved with probabilities of their own; the same where a seed lifts or lowers all tasks;
and two strategies of equal mean of which one never varies. Two tests of earlier commits stand beside those of now:
the sign test on tasks won and lost, and the bootstrap that draws tasks and seeds independently.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from promptrl_plugin.evaluation.statistics import bootstrap_interval, exact_test, paired_bootstrap, won_and_lost

TASKS, RESAMPLES, LEVEL = 378, 400, 0.05
Pair = tuple[np.ndarray, np.ndarray]


def alike(rng: np.random.Generator, seeds: int, lift: float) -> Pair:
    """Two runs of one strategy; a seed adds a normal deviate of that spread to every task's probability."""
    solved = rng.beta(0.5, 0.5, TASKS)

    def run() -> np.ndarray:
        return (rng.random((seeds, TASKS)) < np.clip(solved + rng.normal(0, lift, (seeds, 1)), 0, 1)).astype(float)

    return run(), run()


def steady(rng: np.random.Generator, seeds: int) -> Pair:
    """140 tasks always solved and 28 never, against 0.9 and 0.5 of the time; tasks are drawn."""
    drawn = rng.integers(168, size=168)
    sure, shaky = np.repeat([1.0, 0.0], [140, 28])[drawn], np.repeat([0.9, 0.5], [140, 28])[drawn]
    return np.tile(sure, (seeds, 1)), (rng.random((seeds, 168)) < shaky).astype(float)


def sign_test(ours: np.ndarray, theirs: np.ndarray, _seed: int) -> float:
    wins, losses = (int(tasks.sum()) for tasks in won_and_lost(ours, theirs))
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def independent_bootstrap(ours: np.ndarray, theirs: np.ndarray, seed: int) -> float:
    rng, values = np.random.default_rng(seed), ours - theirs
    seeds, tasks = values.shape
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        means[i] = values[rng.integers(seeds, size=seeds)].mean(0)[rng.integers(tasks, size=tasks)].mean()
    below = float((means < 0).mean() + (means == 0).mean() / 2)
    return 2 * min(below, 1 - below)


TESTS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "exact": lambda ours, theirs, _seed: exact_test(ours, theirs)[2],
    "bootstrap": lambda ours, theirs, seed: paired_bootstrap(ours, theirs, resamples=RESAMPLES, seed=seed)[1],
    "sign (before)": sign_test,
    "bootstrap (before)": independent_bootstrap,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    worlds: dict[str, Callable[[np.random.Generator], Pair]] = {}
    for seeds in (1, 3, 5):
        for lift in (0.0, 0.01, 0.05) if seeds > 1 else (0.0,):
            worlds[f"alike, {seeds} seeds, lift {lift}"] = lambda rng, s=seeds, x=lift: alike(rng, s, x)
        worlds[f"steady against shaky, {seeds} seeds"] = lambda rng, s=seeds: steady(rng, s)
    rows: dict[str, dict[str, float]] = {}
    print(f"share of {arguments.trials} comparisons of equal strategies below p {LEVEL}; coverage of 95 % intervals")
    print(f"{'':34s}" + "".join(f"{name:>20s}" for name in (*TESTS, "coverage")))
    for name, draw in worlds.items():
        rng, below, covered = np.random.default_rng(3), dict.fromkeys(TESTS, 0), 0
        for trial in range(arguments.trials):
            ours, theirs = draw(rng)
            for test, p_value in TESTS.items():
                below[test] += p_value(ours, theirs, trial) < LEVEL
            interval = bootstrap_interval(ours, resamples=RESAMPLES, seed=trial)
            covered += interval.low <= (0.5 if name.startswith("alike") else 140 / 168) <= interval.high
        rows[name] = {test: n / arguments.trials for test, n in (below | {"coverage": covered}).items()}
        print(f"{name:34s}" + "".join(f"{100 * share:18.1f} %" for share in rows[name].values()), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"trials": arguments.trials, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
