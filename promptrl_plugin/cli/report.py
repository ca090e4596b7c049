"""``promptrl report``, and the tables that it shares with ``promptrl compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from promptrl_plugin.cli.console import console, print_whole

if TYPE_CHECKING:
    from promptrl_plugin.evaluation.tables import Grid

__all__ = ["print_tables", "report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of `promptrl compare --out`.")],
    out: Annotated[Path | None, typer.Option(help="Where the files go (default: report/ in the folder).")] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run folder of `promptrl train`, for its learning curve; repeat it for each seed "
            "(default: those beside the policy bundles that were compared)."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Hold every other strategy against this one (default: promptrl).")
    ] = None,
) -> None:
    """Report a comparison: tables here, and as Markdown, CSV, JSON and one HTML page.

    The page has results with intervals and paired tests, accuracy by budget, learning curves, what the agent
    does, example episodes with the diffs of their prompts, and the tasks won and lost. It is one file that needs
    no network. Nothing is generated or judged; a comparison under way is reported as far as it came.
    """
    from promptrl_plugin.evaluation.export import write_report
    from promptrl_plugin.evaluation.report import build_report, settings_line
    from promptrl_plugin.evaluation.tables import report_tables

    built = build_report(folder, run or (), against)
    page = write_report(built, out or folder / "report")
    console.print(settings_line(built), highlight=False)
    print_tables(report_tables(built.reference, built.summaries, built.contests))
    console.print(f"page: {page}", highlight=False, soft_wrap=True)


def print_tables(grids: Sequence[Grid]) -> None:
    """Print tables with their notes."""
    for grid in grids:
        table = Table(
            title=grid.title, caption=grid.note, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
        )
        for i, name in enumerate(grid.header):
            table.add_column(name, justify="right" if i else "left", no_wrap=not i)
        for row in grid.rows:
            table.add_row(*row)
        print_whole(table)
