"""Line charts as SVG to put into a page, in the page's own colours (matplotlib).

Colours become CSS variables, ``--c0`` to ``--c7`` for lines, ``--ink`` for text and axes, ``--rule`` for the grid,
so that a chart follows the page from light to dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COLORS", "Line", "dash_of", "line_chart"]

COLORS = 8
"""Number of line colours; further lines repeat them with another dash."""

_INK, _RULE = "#fd0000", "#fd0001"
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        points: ``(x, y)`` in order.
        index: Number of its colour; lines of equal index share it.
        style: ``"main"``: heavy, with large marks; ``"plain"``: with small ones; ``"faint"``: thin, without;
            ``"level"``: thin and dashed, without.
    """

    points: Sequence[tuple[float, float]]
    index: int
    style: str = "plain"


def dash_of(index: int) -> str:
    """Dash of a line's index: ``"solid"``, ``"dashed"``, ``"dotted"`` or ``"dashdot"``."""
    return _DASHES[index // COLORS % len(_DASHES)]


def line_chart(
    name: str, lines: Sequence[Line], *, x: str, y: str, whole_x: bool = False, size: tuple[float, float]
) -> str:
    """An ``<svg>`` element that scales to the width of its parent.

    Args:
        name: Unlike that of any other chart of the page.
        lines: What to draw, the last on top.
        x, y: Labels of the axes.
        whole_x: Whether `x` counts something, so that only whole numbers are marked.
        size: Width and height in inches of 72 points, at which text has 10 points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK,
        "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": _RULE, "grid.color": _RULE,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for line in lines:
            axes.plot(*zip(*line.points, strict=True), **_look(line))  # type: ignore[arg-type]
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole_x, steps=[1, 2, 5, 10]))
        axes.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(written.getvalue(), f"{y} against {x}")


def _look(line: Line) -> dict[str, object]:
    number = line.index % COLORS
    look: dict[str, object] = {"color": f"#fe00{number:02x}", "linestyle": dash_of(line.index)}
    if line.style == "level":
        return look | {"linewidth": 1, "linestyle": (0, (5, 4))}
    if line.style == "faint":
        return look | {"linewidth": 1, "alpha": 0.6}
    heavy = line.style == "main"
    return look | {"linewidth": 2.6 if heavy else 1.5, "marker": _MARKERS[number], "markersize": 6 if heavy else 4}


def _for_page(svg: str, label: str) -> str:
    """Only the element, sized by its parent, its colours and fonts the page's, without ids that are not used."""
    element = svg[svg.index("<svg") :].strip()
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r"#fe00(0[0-7])", lambda m: f"var(--c{int(m[1], 16)})", element)
    element = element.replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
    element = re.sub(r"font-family: [^;\"]*; ", "", element)
    element = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", element)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
