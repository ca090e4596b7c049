"""Exception tree of promptrl.

Every `UserError` is something that the person at the keyboard can mend. Its message is one line that
says what is wrong and what to do about it; the command line prints it without a traceback and exits
with code 2. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "BudgetError",
    "BundleError",
    "CacheError",
    "ConfigError",
    "DataError",
    "EntryError",
    "HarnessError",
    "JudgeError",
    "LeakageError",
    "PromptrlError",
    "SamplesError",
    "UnknownNameError",
    "UserError",
]


class PromptrlError(Exception):
    """Base class of every error that promptrl raises on purpose."""


class UserError(PromptrlError):
    """An error that the user can mend; the message names the remedy. Exit code 2, no traceback."""


class UnknownNameError(UserError):
    """A name (suite, strategy, model, operator, …) that nothing is registered under.

    Args:
        kind: What the name should have been, e.g. ``"strategy"``.
        name: The name that was given.
        known: The names that would have been accepted; near ones are suggested first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"one of: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
        self.kind, self.name, self.known = kind, name, tuple(names)


class ConfigError(UserError):
    """A setting with a value that cannot work (budget 0, unknown key in a TOML file, …)."""


class DataError(UserError):
    """A suite's data is missing, unreachable or malformed."""


class SamplesError(UserError):
    """A samples file with a torn line, a foreign task, or no line at all."""


class BackboneError(UserError):
    """A model that cannot be found or loaded, or a server that cannot be reached."""


class BundleError(UserError):
    """A policy bundle that is missing, torn, or made for another backbone or action table."""


class LeakageError(UserError):
    """A test task that was, or is a near-duplicate of, a task that the policy was trained on."""


class EntryError(UserError):
    """A leaderboard entry or its submission that is missing, malformed, not eligible, or says what is not so."""


class HarnessError(UserError):
    """A harness that was run as a command ended with an error of its own."""


class CacheError(UserError):
    """The cache file is corrupted, locked for good, or its disk is full."""


class BudgetError(PromptrlError):
    """A strategy asked for more generations than its budget (a bug in the strategy, never clipped)."""


class JudgeError(PromptrlError):
    """A program could not be judged (worker died twice, isolation failed). Never a silent zero."""
