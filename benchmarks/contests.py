#!/usr/bin/env python3
"""Paired tests and intervals from the table of tasks of an earlier comparison, without running it again.

    python benchmarks/contests.py benchmarks/results/qwen2.5-coder-0.5b/mbpp-budget10-tasks.csv.xz [--against promptrl]

Prints strict and soft pass@1 of each row with its interval, and the row named by `--against` against the others, by
the statistics of `promptrl compare` as they are now. The table is `promptrl report`'s ``tasks.csv``.
"""

from __future__ import annotations

import argparse
import csv
import lzma
from pathlib import Path

import numpy as np

from promptrl_plugin.evaluation.statistics import Interval, bootstrap_interval, compare_pairs, holm, paired_bootstrap

Scores = dict[str, np.ndarray]  #: by "strict" and "soft", ``[seeds, tasks]``


def read(path: Path) -> dict[str, Scores]:
    """Scores by row; tasks are in the order of the file, which is the same for every seed."""
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        for row in csv.DictReader(file):
            seeds = rows.setdefault(row["strategy"], {})
            seeds.setdefault(row["seed"], []).append((float(row["strict"]), float(row["soft"])))
    tables = {name: np.array([seeds[seed] for seed in sorted(seeds, key=int)]) for name, seeds in rows.items()}
    return {name: {"strict": table[..., 0], "soft": table[..., 1]} for name, table in tables.items()}


def shown(interval: Interval) -> str:
    mean, low, high, deviation = (100 * x for x in (interval.mean, interval.low, interval.high, interval.seed_std))
    return f"{mean:5.1f} ± {deviation:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--against", default="promptrl")
    arguments = parser.parse_args()
    scores = read(arguments.tasks)
    for name, of in scores.items():
        strict_mean, soft_mean = (shown(bootstrap_interval(of[figure])) for figure in ("strict", "soft"))
        print(f"{name:32s} strict {strict_mean}   soft {soft_mean}")
    ours, others = scores[arguments.against], [name for name in scores if name != arguments.against]
    strict = compare_pairs({name: (ours["strict"], scores[name]["strict"]) for name in others})
    soft = [paired_bootstrap(ours["soft"], scores[name]["soft"]) for name in others]
    print(f"\n{arguments.against} against (points; p: exact, bootstrap, each as it is and after Holm's correction)")
    for row, (difference, p), corrected in zip(strict, soft, holm([p for _, p in soft]), strict=True):
        print(
            f"{row.name:32s} strict {shown(row.difference)} {row.wins}-{row.losses} "
            f"{row.exact_p:.3f} {row.exact_holm:.3f}, {row.bootstrap_p:.3f} {row.bootstrap_holm:.3f}"
            f"   soft {shown(difference)} {p:.3f} {corrected:.3f}"
        )


if __name__ == "__main__":
    main()
