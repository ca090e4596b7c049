"""The learning curve of a run: its figures, and a picture of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptrl_plugin.storage.runs import write_atomic

__all__ = ["Panel", "latest_rows", "panels", "plot_learning_curve"]

_PANELS = (
    ("tasks solved", "solved"),
    ("return", "return"),
    ("generations per task", "generations"),
    ("policy entropy (nats)", "entropy"),
)
_SERIES = (("rollout", "training episodes"), ("validation", "validation tasks"), ("train", "training"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of a run against environment steps.

    Attributes:
        title: What it is, with its unit.
        lines: Points ``(steps, value)`` by what they were measured on.
        random: What random choice reaches on the validation tasks, None where that was not measured.
    """

    title: str
    lines: dict[str, tuple[tuple[float, float], ...]]
    random: float | None = None


def latest_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a step count, the last one written: a rollout repeated after a kill counts once."""
    return list({row["steps"]: row for row in rows}.values())


def panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """Solved share, return, generations and entropy.

    Args:
        rows: Metrics, one row a rollout, each with ``steps``.
    """
    found = []
    for title, figure_name in _PANELS:
        lines = {}
        for group, label in _SERIES:
            key = f"{group}/{figure_name}"
            if points := tuple((row["steps"], row[key]) for row in rows if key in row):
                lines[label] = points
        random = [row[key] for row in rows if (key := f"random/{figure_name}") in row]
        found.append(Panel(title, lines, random[-1] if random else None))
    return found


def plot_learning_curve(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plot the `panels` of a run; a dashed line is what random choice reaches on the validation tasks.

    Args:
        rows: Metrics, one row a rollout, each with ``steps``.
        path: Where the PNG goes, whole or not at all.

    Raises:
        UserError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: it would choose a screen backend

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 2).flat, panels(rows), strict=True):
        for label, points in panel.lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        if panel.random is not None:
            axes.axhline(panel.random, linestyle="--", color="grey", label="random choice, validation tasks")
        axes.set_title(panel.title)
        axes.set_xlabel("environment steps")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    write_atomic(path, picture.getvalue())
    return path
