"""What other packages add by entry points: found by group and name, loaded with an error that a user can mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from promptrl_plugin.errors import ConfigError, UserError

__all__ = ["call_plugin", "load_plugin", "plugin_names"]


def plugin_names(group: str) -> set[str]:
    """Names in an entry-point group."""
    return {point.name for point in entry_points(group=group)}


def load_plugin(group: str, kind: str, name: str) -> Any | None:
    """The object behind an entry point, None where no package has one of that name.

    Args:
        group: Entry-point group, such as ``"promptrl.suites"``.
        kind: What it is, for the error.
        name: Of the entry point.

    Raises:
        ConfigError: It cannot be loaded.
    """
    for point in entry_points(group=group):
        if point.name == name:
            return call_plugin(kind, name, point.value, point.load)
    return None


def call_plugin(kind: str, name: str, value: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a plugin's function returns. With ``PROMPTRL_DEBUG=1`` its own error comes through, with its traceback.

    Raises:
        ConfigError: It raised what is no `UserError`.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as e:  # a plugin may raise anything
        if os.environ.get("PROMPTRL_DEBUG") == "1":
            raise
        raise ConfigError(
            f"{kind} {name!r} ({value}) cannot be loaded: {e!r}; mend or uninstall it (PROMPTRL_DEBUG=1 tells where)"
        ) from None
