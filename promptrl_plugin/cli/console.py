"""Consoles and progress bars."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

__all__ = ["GenerationProgress", "TrainProgress", "console", "error_console", "print_whole"]

_ANY_WIDTH = 10_000  # columns, more than any table has
_LINE_EVERY = 30.0  # seconds, where there is no terminal

console = Console()
error_console = Console(stderr=True)


def print_whole(table: Table) -> None:
    """Print a table with nothing cut: folded to a terminal's width, as wide as it needs in a file or pipe."""
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        table.width = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    console.print(table, crop=False)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=error_console,
        disable=not sys.stderr.isatty(),
    )


class GenerationProgress:
    """A bar over tasks with the rate of generations; plain lines where there is no terminal."""

    def __init__(self, label: str, total: int) -> None:
        self._bar = _progress()
        self._id = self._bar.add_task(label, total=total, note="")
        self._label, self._total, self._done, self._generations = label, total, 0, 0
        self._start = self._last = time.monotonic()

    def __enter__(self) -> GenerationProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def sample(self) -> None:
        """A task is finished."""
        self._done += 1
        self._bar.advance(self._id)

    def generation(self) -> None:
        """A generation is finished."""
        self._generations += 1
        now = time.monotonic()
        rate = self._generations / max(1e-9, now - self._start)
        self._bar.update(self._id, note=f"{self._generations} generations, {rate:.1f}/s")
        if self._bar.disable and now - self._last > _LINE_EVERY:
            self._last = now
            error_console.print(
                f"{self._label}: {self._done}/{self._total} tasks, {self._generations} generations, {rate:.1f}/s"
            )


class TrainProgress:
    """Shows a training run (implements `promptrl_plugin.agent.train.TrainListener`).

    Bars with the rate of generations; plain lines where there is no terminal.

    Args:
        label: What stands before each line, where several runs are shown.
        beside: Show the bars among those of another run, which begins and ends the display.
    """

    def __init__(self, label: str = "", beside: TrainProgress | None = None) -> None:
        self._bar: Progress = beside._bar if beside is not None else _progress()
        self._label = f"{label}: " if label else ""
        self._id: TaskID | None = None
        self._stage, self._done, self._generations = "", 0, 0
        self._total: int | None = None
        self._start = self._last = time.monotonic()

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        name = self._label + name
        self._id = self._bar.add_task(name, total=total, note="")
        self._stage, self._total, self._done = name, total, 0
        if self._bar.disable:
            error_console.print(f"{name} …", highlight=False)

    def advance(self, steps: int) -> None:
        self._done += steps
        if self._id is not None:
            self._bar.advance(self._id, steps)

    def generation(self) -> None:
        self._generations += 1
        now = time.monotonic()
        note = f"{self._generations} generations, {self._generations / max(1e-9, now - self._start):.1f}/s"
        if self._id is not None and self._generations % 8 == 0:
            self._bar.update(self._id, note=note)
        if self._bar.disable and now - self._last > _LINE_EVERY:
            self._last = now
            of = f" {self._done}/{self._total}" if self._total else ""
            error_console.print(f"{self._stage}{of}: {note}", highlight=False)

    def metrics(self, values: dict[str, float]) -> None:
        shown = {k: v for k, v in values.items() if k in _SHOWN}
        text = self._label + "  ".join(
            f"{_SHOWN[k]} {v:.3f}" if isinstance(v, float) else f"{_SHOWN[k]} {v}" for k, v in shown.items()
        )
        (self._bar.console if not self._bar.disable else error_console).print(text, highlight=False, soft_wrap=True)


_SHOWN = {
    "steps": "step",
    "rollout/return": "return",
    "rollout/solved": "solved",
    "rollout/generations": "generations",
    "train/entropy": "entropy",
    "train/approx_kl": "kl",
    "validation/solved": "validation solved",
    "validation/generations": "with generations",
    "random/solved": "random choice solves",
}
