"""The ``promptrl`` command: the only place that prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from promptrl_plugin import __version__
from promptrl_plugin.cli import (
    cache,
    compare,
    doctor,
    evaluate,
    leaderboard,
    models,
    quickstart,
    report,
    reproduce,
    training,
)
from promptrl_plugin.cli.console import console, error_console
from promptrl_plugin.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="promptrl",
    help=(
        "RL prompt optimization as a prompting strategy for EvalPlus and lm-evaluation-harness.\n\n"
        "Train an agent for a frozen code LLM with `promptrl train`, then score it with "
        "`evalplus.evaluate --strategy promptrl` or `lm_eval --tasks mbpp_plus_promptrl`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("quickstart")(quickstart.quickstart)
app.add_typer(models.app, name="models")
app.command("train")(training.train)
app.command("solve")(evaluate.solve)
app.command("judge")(evaluate.judge)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(leaderboard.app, name="leaderboard")
app.command("suites")(evaluate.suites)
app.add_typer(cache.app, name="cache")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"promptrl {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        error_console.print(f"promptrl: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        error_console.print("promptrl: interrupted; run the same command again to go on", markup=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
