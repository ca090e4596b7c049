"""Tables of a comparison, cell by cell as text: the terminal, Markdown and the page show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptrl_plugin.evaluation.statistics import Interval
from promptrl_plugin.evaluation.summary import Contest, Spending, Summary

__all__ = ["Grid", "contest_tables", "curve_tables", "markdown", "p_value", "percent", "report_tables", "score_tables"]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: the first column names the row, the others are figures.

    Attributes:
        title: What it shows, with the unit.
        header: Of each column.
        rows: Cells as text, as many as the header has.
        note: What a reader must know to read it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def score_tables(summaries: Sequence[Summary]) -> list[Grid]:
    """pass@1 with intervals; what was spent; what the visible tests promise."""
    scores = [
        (s.strategy, str(len(s.seeds)), _mean(s.strict, s), _range(s.strict), _mean(s.soft, s), _range(s.soft),
         percent(s.base))
        for s in summaries
    ]  # fmt: skip
    spent = [(s.strategy, *_spending(s.generations, 2), *_spending(s.tokens, 0)) for s in summaries]
    gaps = [(s.strategy, percent(s.visible), percent(s.gap), percent(s.false_visible)) for s in summaries]
    return [
        Grid(
            "pass@1 (%)",
            ("strategy", "seeds", "strict", "95 % interval", "soft", "95 % interval", "base"),
            tuple(scores),
            "strict: every base and plus test passes; soft: mean share of them; ± standard deviation over seeds; "
            "intervals: bootstrap over tasks and seeds",
        ),
        Grid(
            "What was spent",
            ("strategy", "generations / task", "per solved", "tokens / task", "per solved"),
            tuple(spent),
            "every LLM call counted; tokens read and written; per solved: all that was spent, by strictly solved tasks",
        ),
        Grid(
            "Visible against hidden tests (%)",
            ("strategy", "pass visible", "pass visible, fail hidden", "as share of those that pass visible"),
            tuple(gaps),
            "–: the strategy does not look at the visible tests, or at oracle sees the hidden ones",
        ),
    ]


def contest_tables(reference: str, contests: Sequence[Contest]) -> list[Grid]:
    """Paired tests of `reference` against every other strategy; none without another."""
    if not contests:
        return []
    strict, soft, reach = [], [], []
    for c in contests:
        s = c.strict
        wins = f"{s.wins}–{s.losses}"
        strict.append((s.name, *_difference(s.difference), wins, p_value(s.exact_holm), p_value(s.bootstrap_holm)))
        soft.append((s.name, *_difference(c.soft), p_value(c.soft_holm)))
        point = c.reach
        at = (str(point.allowed), f"{point.spent:.2f}") if point is not None else ("–", "–")
        share = f"{100 * point.spent / c.theirs:.0f} %" if point is not None else "–"
        reach.append((s.name, *at, f"{c.theirs:.2f}", share))
    return [
        Grid(
            f"{reference} against the others: strict pass@1 (points)",
            ("against", "difference", "95 % interval", "won–lost", "exact p", "bootstrap p"),
            tuple(strict),
            "paired by task; won–lost: tasks that one of the two solves in more of its seeds; "
            "p-values after Holm's correction over the rows",
        ),
        Grid(
            f"{reference} against the others: soft pass@1 (points)",
            ("against", "difference", "95 % interval", "bootstrap p"),
            tuple(soft),
            "paired by task; p-values after Holm's correction over the rows",
        ),
        Grid(
            f"What {reference} needs for the other's final strict pass@1 (generations a task)",
            ("against", "allowed", "spent", "the other spends", "share of that"),
            tuple(reach),
            "–: not within the budget",
        ),
    ]


def curve_tables(summaries: Sequence[Summary]) -> list[Grid]:
    """Strict pass@1, and generations spent, by generations allowed."""
    header = ("generations allowed", *(str(p.allowed) for p in summaries[0].curve))
    return [
        Grid(
            "Strict pass@1 (%) by generations allowed",
            header,
            tuple((s.strategy, *(percent(p.strict) for p in s.curve)) for s in summaries),
            "of what would have been submitted, had every task been stopped there",
        ),
        Grid(
            "Generations spent a task by generations allowed",
            header,
            tuple((s.strategy, *(f"{p.spent:.2f}" for p in s.curve)) for s in summaries),
        ),
    ]


def report_tables(reference: str, summaries: Sequence[Summary], contests: Sequence[Contest]) -> list[Grid]:
    """The tables of the terminal and of Markdown."""
    return [*score_tables(summaries), *contest_tables(reference, contests), *curve_tables(summaries)]


def markdown(grid: Grid) -> str:
    """The grid as a Markdown section."""
    lines = [_row(grid.header), _row(["---", *["---:"] * (len(grid.header) - 1)]), *map(_row, grid.rows)]
    return f"## {grid.title}\n\n" + "\n".join(lines) + (f"\n\n{grid.note}\n" if grid.note else "\n")


def percent(share: float | None) -> str:
    """A share as per cent with one decimal, a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}"


def p_value(p: float) -> str:
    """A p-value with three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _mean(interval: Interval, summary: Summary) -> str:
    spread = f"±{percent(interval.seed_std)}" if len(summary.seeds) > 1 else ""
    return percent(interval.mean) + spread


def _range(interval: Interval) -> str:
    return f"{percent(interval.low)}–{percent(interval.high)}"


def _difference(interval: Interval) -> tuple[str, str]:
    low, high = (f"{100 * bound:+.1f}" for bound in (interval.low, interval.high))
    return f"{100 * interval.mean:+.1f}", f"{low}…{high}"


def _spending(spending: Spending, decimals: int) -> tuple[str, str]:
    solved = spending.per_solved
    return f"{spending.per_task:.{decimals}f}", "–" if solved is None else f"{solved:.{decimals}f}"
