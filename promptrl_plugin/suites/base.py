"""What a suite is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from promptrl_plugin.records import Task
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["Suite"]


@runtime_checkable
class Suite(Protocol):
    """A named set of tasks.

    `tasks` is all that a strategy ever gets. `hidden` is for training on train tasks and for grading.

    Attributes:
        name: E.g. ``"mbpp"``.
        version: Version or content hash of the data, part of run folders and bundles.
        evalplus_dataset: ``"mbpp"`` or ``"humaneval"`` where `evalplus.evaluate` can score the suite
            (its tasks are in EvalPlus's schema), else None.

    A suite that is evaluated also has ``train_suite``, the name of the one that trains in its place (``""`` for none);
    one without that attribute may train (`suites.registry.train_suite_of`).
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def evalplus_dataset(self) -> str | None: ...

    def tasks(self) -> Sequence[Task]:
        """Every task, in the suite's own order."""
        ...

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        ...
