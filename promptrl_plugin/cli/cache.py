"""``promptrl cache``: what backbones wrote and judges found, and carrying it to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from promptrl_plugin.cli.console import console, print_whole

__all__ = ["app"]

app = typer.Typer(help="Show the cache of completions and verdicts, export it, import it.", no_args_is_help=True)


@app.command("info")
def info() -> None:
    """Show where the cache is and what it holds."""
    from promptrl_plugin.storage.cache import Cache

    with Cache() as cache:
        table = Table("entries", "number")
        for name, count in cache.counts().items():
            table.add_row(name, str(count))
        console.print(f"{cache.path}", highlight=False, soft_wrap=True)
        print_whole(table)


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="File to write, such as run.jsonl.xz.")],
    verdicts: Annotated[bool, typer.Option(help="Export verdicts, too, not only completions.")] = True,
) -> None:
    """Write what the cache holds to one compressed file.

    Whoever imports it repeats the runs that filled this cache without generating anything.
    """
    from promptrl_plugin.storage.archive import ARCHIVED_TABLES, export_cache
    from promptrl_plugin.storage.cache import Cache

    with Cache() as cache:
        counts = export_cache(cache, out, ARCHIVED_TABLES if verdicts else ("completions",))
    console.print(f"{out}: {_listed(counts)}", highlight=False, soft_wrap=True)


@app.command("import")
def import_(archive: Annotated[Path, typer.Argument(help="File of `promptrl cache export`.")]) -> None:
    """Add the entries of an exported file to the cache; what is there already stays."""
    from promptrl_plugin.storage.archive import import_cache
    from promptrl_plugin.storage.cache import Cache

    with Cache() as cache:
        counts = import_cache(cache, archive)
        console.print(f"{cache.path}: {_listed(counts)} were new", highlight=False, soft_wrap=True)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
