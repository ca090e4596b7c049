"""``promptrl leaderboard``: make entries of a comparison, verify them, render the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from promptrl_plugin.cli.console import GenerationProgress, console
from promptrl_plugin.errors import EntryError

__all__ = ["app"]

app = typer.Typer(help="Make entries of the leaderboard, verify them, render its page.", no_args_is_help=True)

Board = Annotated[Path, typer.Option(help="Folder of the leaderboard.")]
_BOARD = Path("leaderboard")


@app.command("add")
def add(
    run: Annotated[Path, typer.Argument(help="Finished folder of `promptrl compare --out`.")],
    row: Annotated[
        list[str] | None, typer.Option(help="Strategy, or strategy:label, to enter; repeatable (default: every row).")
    ] = None,
    link: Annotated[str, typer.Option(help="Page of the model, http(s)://…")] = "",
    size: Annotated[
        float | None, typer.Option(help="Parameters in billions (default: as the model's name says).")
    ] = None,
    prompted: Annotated[
        bool | None,
        typer.Option(
            "--prompted/--completed", help="Whether the model got chat prompts (default: if its name says instruct)."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of an entry with other samples.")
    ] = False,
    board: Board = _BOARD,
) -> None:
    """Make an entry and a submission of each row of a comparison.

    The entry goes to entries/ID.json, its samples, verdicts, spending and policy bundle to submissions/ID.zip.
    Nothing is generated; verdicts come from the cache where they are there.
    """
    from promptrl_plugin.checking.caching import CachingJudge
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.leaderboard.add import ModelNotes, make_entry, open_comparison, write_entry
    from promptrl_plugin.storage.cache import Cache

    comparison, notes = open_comparison(run, row or ()), ModelNotes(prompted, size, link)
    with Cache() as cache, IsolatedJudge(JudgeConfig()) as isolated:
        judge = CachingJudge(isolated, cache)
        for name, seeds in comparison.rows.items():
            with GenerationProgress(f"judge {name}", len(seeds) * len(comparison.suite.tasks())) as bar:
                entry, files = make_entry(comparison, name, judge, notes, _ticks(bar))
            path = write_entry(board, entry, files, replace=replace)
            console.print(f"{name}: {path}", highlight=False, soft_wrap=True)
    console.print("verify: promptrl leaderboard validate", highlight=False)


@app.command("validate")
def validate(
    entries: Annotated[list[Path] | None, typer.Argument(help="Files of entries (default: every one).")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes of the judge (0: one per core).")] = 0,
    board: Board = _BOARD,
) -> None:
    """Judge the samples of entries anew and recompute every figure and hash; names the fields that are wrong.

    Refuses entries whose search hidden tests guided (oracle), and policies that were trained on a task of the suite.
    """
    from promptrl_plugin.checking.judge import IsolatedJudge
    from promptrl_plugin.config import JudgeConfig
    from promptrl_plugin.leaderboard.entry import entry_paths
    from promptrl_plugin.leaderboard.validate import programs_of, validate_entry

    paths = entries or entry_paths(board)
    if not paths:
        raise EntryError(
            f"there is no entry in {board}; make one with `promptrl leaderboard add`, or give --board FOLDER"
        )
    wrong = []
    with IsolatedJudge(JudgeConfig(workers=workers)) as judge:
        judge.start()
        for path in paths:
            notices: list[str] = []
            with GenerationProgress(f"judge {path.stem}", programs_of(path)) as bar:
                problems = validate_entry(path, judge, _ticks(bar), notices.append)
            for line in [*notices, *problems]:
                console.print(f"{path}: {line}", highlight=False, markup=False, soft_wrap=True)
            if problems:
                wrong.append(path.stem)
            else:
                console.print(f"{path}: verified", highlight=False, soft_wrap=True)
    if wrong:
        raise EntryError(
            f"{len(wrong)} of {len(paths)} entries are not valid ({', '.join(wrong)}), see the fields named above; "
            "make them again with `promptrl leaderboard add RUN --replace`"
        )
    console.print(f"{len(paths)} entries verified", highlight=False)


@app.command("build")
def build(board: Board = _BOARD) -> None:
    """Render entries as a static page that needs no network: site/index.html, and site/results.json for EvalPlus."""
    from promptrl_plugin.leaderboard.site import build_site

    page, count = build_site(board)
    console.print(f"{count} entries: {page}", highlight=False, soft_wrap=True)


def _ticks(bar: GenerationProgress) -> Callable[[int], None]:
    return lambda _position: bar.sample()
