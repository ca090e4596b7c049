"""The `examples` suite: 50 solved tasks of our own that operators show before a task, shipped in the package.

They are what few-shot prompts are made of, so they stay as they are whatever becomes of the suites that
agents train and are evaluated on: another example is another prompt. Most of them began as tasks of the
`starter` suite. A task that is one of them, or nearly so, never gets itself as an example
(`prompts.examples`), and a policy refuses to be evaluated on it (`agent.bundle`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources

from promptrl_plugin.records import Task
from promptrl_plugin.suites.evalplus import convert
from promptrl_plugin.suites.hidden import HiddenTests

__all__ = ["ExampleSuite"]


class ExampleSuite:
    """The tasks of ``data/examples.jsonl``, in EvalPlus's MBPP+ schema.

    Attributes:
        name: ``"examples"``.
        version: First 12 hex digits of the SHA-256 of the data file.
    """

    name = "examples"
    evalplus_dataset: str | None = None

    def __init__(self) -> None:
        data = resources.files("promptrl_plugin.suites").joinpath("data", "examples.jsonl").read_bytes()
        self.version = hashlib.sha256(data).hexdigest()[:12]
        pairs = [convert(json.loads(line), self.name, "mbpp") for line in data.splitlines()]
        self._tasks = tuple(task for task, _ in pairs)
        self._hidden = {task.id: hidden for task, hidden in pairs}

    def tasks(self) -> Sequence[Task]:
        """Every task, in the file's order."""
        return self._tasks

    def hidden(self) -> Mapping[str, HiddenTests]:
        """Hidden tests by task id."""
        return self._hidden
