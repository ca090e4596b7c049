"""The HTML page of a report: one file that needs no network and no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptrl_plugin.evaluation.charts import COLORS, Line, dash_of, line_chart
from promptrl_plugin.evaluation.report import Report, settings_line
from promptrl_plugin.evaluation.statistics import Interval
from promptrl_plugin.evaluation.tables import contest_tables, curve_tables, p_value, percent, score_tables
from promptrl_plugin.evaluation.traces import SITUATIONS, Episode, OperatorUse, examples, word_diff

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["page_template", "render_page", "tracks"]

ALPHA = 0.05
_CURVE_SIZE = (5.2, 3.4)
_PANEL_SIZE = (5.2, 2.9)


def render_page(report: Report) -> str:
    """The page as text."""
    scores, spent, gaps = score_tables(report.summaries)
    return page_template("report.html").render(
        r=report,
        settings=settings_line(report),
        headline=_headline(report),
        legend=_legend(report),
        scores=scores,
        tracks=tracks([s.strict for s in report.summaries]),
        spent=spent,
        gaps=gaps,
        contests=contest_tables(report.reference, report.contests),
        curves=curve_tables(report.summaries),
        curve_charts=_curve_charts(report),
        run_charts=_run_charts(report),
        run_legend=[{"name": run.name, "color": i % COLORS} for i, run in enumerate(report.runs)],
        operators=_operators(report),
        examples=_examples(report),
        tasks=_tasks(report),
        others=[c.strict.name for c in report.contests],
    )


def page_template(name: str, package: str = "promptrl_plugin.evaluation") -> Template:
    """A page's template, in which what is filled in is escaped; it may include ``style.css``, which pages share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys((package, "promptrl_plugin.evaluation"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(p) for p in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def tracks(intervals: Sequence[Interval]) -> list[dict[str, float]]:
    """Interval and mean of each row, in per cent of the width that they share."""
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    scale = 100 / max(high - low, 0.01)
    return [
        {"left": scale * (i.low - low), "width": scale * (i.high - i.low), "mean": scale * (i.mean - low)}
        for i in intervals
    ]


# --- results -----------------------------------------------------------------------------------------


def _headline(report: Report) -> list[str]:
    """What the comparison found, in sentences."""
    ours = next(s for s in report.summaries if s.strategy == report.reference)
    said = [
        f"{ours.strategy} solves {percent(ours.strict.mean)} % of {ours.tasks} tasks (95 % interval "
        f"{percent(ours.strict.low)}–{percent(ours.strict.high)}), spending {ours.generations.per_task:.2f} "
        f"generations a task."
    ]
    for c in report.contests:
        s, d = c.strict, c.strict.difference
        verdict = "no clear difference" if s.bootstrap_holm >= ALPHA else "better" if d.mean > 0 else "worse"
        said.append(
            f"Against {s.name}: {verdict}, {100 * d.mean:+.1f} points ({100 * d.low:+.1f}…{100 * d.high:+.1f}, "
            f"corrected p {p_value(s.bootstrap_holm)}), {s.wins} tasks won, {s.losses} lost."
        )
    return said


def _legend(report: Report) -> dict[str, dict[str, Any]]:
    """Colour and dash by strategy; the reference has the first."""
    order = [report.reference, *(s.strategy for s in report.summaries if s.strategy != report.reference)]
    return {name: {"color": i % COLORS, "dash": dash_of(i), "index": i} for i, name in enumerate(order)}


def _curve_charts(report: Report) -> list[str]:
    legend = _legend(report)
    charts = []
    for name, label, allowed in (
        ("allowed", "generations allowed a task", True),
        ("spent", "generations spent a task", False),
    ):
        lines = [
            Line(
                [(p.allowed if allowed else p.spent, 100 * p.strict) for p in s.curve],
                legend[s.strategy]["index"],
                "main" if s.strategy == report.reference else "plain",
            )
            for s in sorted(report.summaries, key=lambda s: s.strategy == report.reference)
        ]
        charts.append(line_chart(name, lines, x=label, y="strict pass@1 (%)", whole_x=allowed, size=_CURVE_SIZE))
    return charts


def _run_charts(report: Report) -> list[str]:
    """One chart a figure, a colour a run: episodes faint, validation heavy, random choice dashed."""
    charts = []
    for position in range(len(report.runs[0].panels) if report.runs else 0):
        lines = []
        for i, run in enumerate(report.runs):
            panel = run.panels[position]
            lines += [
                Line(points, i, "plain" if on == "validation tasks" else "faint") for on, points in panel.lines.items()
            ]
            steps = [x for points in panel.lines.values() for x, _ in points]
            if panel.random is not None and steps:
                lines.append(Line([(min(steps), panel.random), (max(steps), panel.random)], i, "level"))
        title = report.runs[0].panels[position].title
        charts.append(line_chart(f"run{position}", lines, x="environment steps", y=title, size=_PANEL_SIZE))
    return charts


# --- what the agent does -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Heat:
    """A count with its share of the column, for a shaded cell."""

    count: int
    share: float


def _operators(report: Report) -> list[dict[str, Any]]:
    """Tables of operators, the reference first."""
    names = sorted(report.operators, key=lambda name: name != report.reference)
    return [_operator_tables(name, report.operators[name]) for name in names]


def _operator_tables(name: str, uses: Sequence[OperatorUse]) -> dict[str, Any]:
    steps = {f"step {i + 1}": _shares([u.by_step[i] for u in uses]) for i in range(len(uses[0].by_step))}
    situations: dict[str, list[_Heat]] = {}
    for situation in SITUATIONS:
        counts = [u.by_situation[situation] for u in uses if u.by_situation is not None]
        if any(counts):
            situations[situation.replace("_", " ")] = _shares(counts)
    return {"strategy": name, "uses": uses, "steps": steps, "situations": situations}


def _shares(counts: Sequence[int]) -> list[_Heat]:
    total = sum(counts) or 1
    return [_Heat(count, count / total) for count in counts]


def _examples(report: Report) -> list[dict[str, Any]]:
    solved_by: dict[str, float] = {}
    for name, seeds in report.outcomes.items():
        for o in (o for outcomes in seeds.values() for o in outcomes if name != report.reference):
            solved_by[o.task_id] = solved_by.get(o.task_id, 0) + o.strict / len(seeds)
    found = examples(report.episodes.get(report.reference, ()), solved_by)
    return [{"title": title, "episodes": [_shown(e) for e in episodes]} for title, episodes in found]


def _shown(e: Episode) -> dict[str, Any]:
    before, steps = f"{e.original.strip()}\n", []
    for step in e.steps:
        steps.append({"step": step, "diff": word_diff(before, step.prompt), "changed": step.prompt != before})
        before = step.prompt
    return {"episode": e, "title": _title(e.original), "steps": steps}


# --- tasks -------------------------------------------------------------------------------------------


def _tasks(report: Report) -> list[dict[str, Any]]:
    """Every task: share of seeds in which each strategy solves it, and which contests it decides."""
    ids = [o.task_id for o in next(iter(report.outcomes[report.reference].values()))]
    shares = {name: _solved(seeds) for name, seeds in report.outcomes.items()}
    won = [(i, frozenset(c.won), frozenset(c.lost)) for i, c in enumerate(report.contests)]
    return [
        {
            "id": task_id,
            "title": _title(report.prompts.get(task_id, "")),
            "shares": [shares[s.strategy][task_id] for s in report.summaries],
            "won": " ".join(str(i) for i, w, _ in won if task_id in w),
            "lost": " ".join(str(i) for i, _, lost in won if task_id in lost),
        }
        for task_id in ids
    ]


def _solved(seeds: Mapping[int, Sequence[Any]]) -> dict[str, tuple[int, int]]:
    """Seeds that solve it and seeds in all, by task id."""
    solved: dict[str, int] = {}
    for outcomes in seeds.values():
        for o in outcomes:
            solved[o.task_id] = solved.get(o.task_id, 0) + o.strict
    return {task_id: (count, len(seeds)) for task_id, count in solved.items()}


def _title(prompt: str) -> str:
    """First line of a prompt's description."""
    opened = re.split(r'"""|\'\'\'', prompt, maxsplit=1)
    lines = [line.strip(" \"'") for line in opened[-1].splitlines() if line.strip(" \"'")]
    return lines[0] if lines else ""
