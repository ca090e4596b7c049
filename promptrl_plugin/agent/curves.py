"""The learning curve of a run, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_learning_curve"]

_PANELS = (
    ("tasks solved", (("rollout/solved", "training episodes"), ("validation/solved", "validation tasks"))),
    ("return", (("rollout/return", "training episodes"), ("validation/return", "validation tasks"))),
    ("generations per task", (("rollout/generations", "training episodes"), ("validation/generations", "validation"))),
    ("policy entropy (nats)", (("train/entropy", "policy"),)),
)


def plot_learning_curve(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plot solved share, return, generations and entropy against environment steps.

    Args:
        rows: Metrics, one row a rollout, each with ``steps``.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure  # no pyplot: it would choose a screen backend

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for key, label in series:
            points = [(row["steps"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axes.set_title(title)
        axes.set_xlabel("environment steps")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=120)
    return path
