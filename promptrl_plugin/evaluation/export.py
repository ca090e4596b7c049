"""A report as files: Markdown, CSV, JSON and one HTML page.

```
report.md       the tables that the terminal shows
report.html     the page: figures, charts, what the agent does, example episodes, tasks; needs no other file
report.json     all of it as data
strategies.csv  one row a strategy      contests.csv  one row a paired comparison
curves.csv      one row a strategy and number of generations allowed
tasks.csv       one row a strategy, seed and task
```
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptrl_plugin.evaluation.page import render_page
from promptrl_plugin.evaluation.report import Report, settings_line
from promptrl_plugin.evaluation.tables import markdown, report_tables
from promptrl_plugin.storage.runs import write_atomic, write_json

__all__ = ["write_report"]


def write_report(report: Report, out: Path) -> Path:
    """Write all files into `out`, each whole or not at all; returns the page."""
    page = out / "report.html"
    write_atomic(page, render_page(report))
    sections = "\n".join(markdown(grid) for grid in report_tables(report.reference, report.summaries, report.contests))
    write_atomic(out / "report.md", f"# Comparison\n\n{settings_line(report)}\n\n{sections}")
    write_json(out / "report.json", _data(report))
    for name, rows in _csv_rows(report).items():
        write_atomic(out / f"{name}.csv", _csv(rows))
    return page


def _data(report: Report) -> dict[str, Any]:
    return {
        "settings": report.config,
        "suite_version": report.suite_version,
        "models": list(report.models),
        "eligible": not report.oracle,
        "environment": report.environment,
        "reference": report.reference,
        "strategies": [asdict(s) for s in report.summaries],
        "contests": [asdict(c) for c in report.contests],
        "operators": {name: [asdict(u) for u in uses] for name, uses in report.operators.items()},
        "training_runs": [asdict(r) for r in report.runs],
        "untraced": list(report.untraced),
    }


def _csv_rows(report: Report) -> dict[str, list[dict[str, Any]]]:
    c = report.config
    same = {"suite": c.get("suite"), "model": c.get("backbone", {}).get("model"), "budget": c.get("budget"),
            "feedback": c.get("feedback")}  # fmt: skip
    flat = [_flat(asdict(s)) for s in report.summaries]
    tasks = [
        {"strategy": name, "seed": seed, **_flat(asdict(o))}
        for name, seeds in report.outcomes.items()
        for seed, outcomes in seeds.items()
        for o in outcomes
    ]
    curves = [{"strategy": s.strategy, **asdict(p)} for s in report.summaries for p in s.curve]
    held = [{"reference": report.reference, **_flat(asdict(contest))} for contest in report.contests]
    found = {"strategies": flat, "contests": held, "curves": curves, "tasks": tasks}
    return {name: [same | row for row in rows] for name, rows in found.items()}


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as columns ``outer_inner``; lists of numbers or names as one cell, of objects left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}_")
        elif not isinstance(value, (list, tuple)):
            flat[prefix + key] = value
        elif not any(isinstance(v, Mapping) for v in value):
            flat[prefix + key] = " ".join(str(int(v) if isinstance(v, bool) else v) for v in value)
    return flat


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else int(v) if isinstance(v, bool) else v for k, v in r.items()} for r in rows)
    return text.getvalue()
