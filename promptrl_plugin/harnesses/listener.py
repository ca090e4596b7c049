"""Who follows the solving of a suite: progress bars and counters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Listener", "TerminalListener"]


class Listener(Protocol):
    """Follows a run."""

    def begin(self, label: str, done: int, total: int, samples: Path) -> None:
        """Solving starts; `done` of `total` tasks are finished already."""

    def sample(self) -> None:
        """A task is finished and its sample is on file."""

    def generation(self) -> None:
        """The backbone finished a generation."""

    def end(self) -> None:
        """Solving is over, or was broken off."""


class TerminalListener:
    """A bar over tasks on stderr, with the rate of generations; one line where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._generations = 0

    def begin(self, label: str, done: int, total: int, samples: Path) -> None:
        from tqdm import tqdm

        # evalplus.codegen announces its two files with these words.
        sys.stderr.write(f"Sanitized code outputs will be saved to {samples}\n")
        self._bar = tqdm(total=total, initial=done, desc=label, unit="task", disable=not sys.stderr.isatty())

    def sample(self) -> None:
        self._bar.update()

    def generation(self) -> None:
        self._generations += 1
        self._bar.set_postfix(generations=self._generations, refresh=False)

    def end(self) -> None:
        self._bar.close()
