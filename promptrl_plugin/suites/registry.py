"""Suites by name: the built-in table and the entry-point group ``promptrl.suites``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from promptrl_plugin.errors import ConfigError, DataError, UnknownNameError
from promptrl_plugin.plugins import call_plugin, load_plugin, plugin_names
from promptrl_plugin.suites.base import Suite

__all__ = [
    "ENTRY_POINT_GROUP",
    "SUITES",
    "TRAIN_SUITES",
    "check_evaluated",
    "load_suite",
    "load_train_suite",
    "not_at_hand",
    "suite_names",
    "train_suite_of",
]

#: Another package adds a suite with an entry point of this group: a callable without arguments that
#: returns a `Suite`. A built-in name cannot be taken over.
ENTRY_POINT_GROUP = "promptrl.suites"


def _mbpp() -> Suite:
    from promptrl_plugin.suites.evalplus import EvalPlusSuite

    return EvalPlusSuite("mbpp")


def _humaneval() -> Suite:
    from promptrl_plugin.suites.evalplus import EvalPlusSuite

    return EvalPlusSuite("humaneval")


def _mbpp500() -> Suite:
    from promptrl_plugin.suites.mbpp import Mbpp500Suite

    return Mbpp500Suite()


def _mbpp_train() -> Suite:
    from promptrl_plugin.suites.mbpp_train import MbppTrainSuite

    return MbppTrainSuite()


def _examples() -> Suite:
    from promptrl_plugin.suites.examples import ExampleSuite

    return ExampleSuite()


def _starter(split: Literal["all", "train", "test"]) -> Callable[[], Suite]:
    def load() -> Suite:
        from promptrl_plugin.suites.starter import StarterSuite

        return StarterSuite(split)

    return load


def _apps(difficulty: str = "") -> Callable[[], Suite]:
    def load() -> Suite:
        from promptrl_plugin.suites.apps import AppsSuite

        return AppsSuite(difficulty)

    return load


def _apps_train() -> Suite:
    from promptrl_plugin.suites.apps import AppsTrainSuite

    return AppsTrainSuite()


#: Built-in suites; calling the value reads the data.
SUITES: Mapping[str, Callable[[], Suite]] = MappingProxyType(
    {
        "mbpp": _mbpp,
        "mbpp500": _mbpp500,
        "humaneval": _humaneval,
        "mbpp-train": _mbpp_train,
        "starter": _starter("all"),
        "starter-train": _starter("train"),
        "starter-test": _starter("test"),
        "examples": _examples,
        "apps": _apps(),
        "apps-introductory": _apps("introductory"),
        "apps-interview": _apps("interview"),
        "apps-competition": _apps("competition"),
        "apps-train": _apps_train,
    }
)


#: Built-in suites that are evaluated, so that none of them trains, each with the one that trains in its place. A suite
#: of another package says the same of itself by its attribute ``train_suite`` (`train_suite_of`).
TRAIN_SUITES: Mapping[str, str] = MappingProxyType(
    {
        "mbpp": "mbpp-train",
        "mbpp500": "mbpp-train",
        "humaneval": "mbpp-train",
        "starter": "starter-train",
        "starter-test": "starter-train",
        "apps": "apps-train",
        "apps-introductory": "apps-train",
        "apps-interview": "apps-train",
        "apps-competition": "apps-train",
    }
)


def load_suite(name: str) -> Suite:
    """Load a suite.

    Raises:
        UnknownNameError: No suite has that name; near names are suggested.
        ConfigError: It is another package's and fails.
        DataError: Its data is missing, unreachable or malformed.
    """
    if name in SUITES:
        return SUITES[name]()
    if (make := load_plugin(ENTRY_POINT_GROUP, "suite", name)) is not None:
        suite: Suite = call_plugin("suite", name, f"{make.__module__}:{make.__qualname__}", make)
        return suite
    raise UnknownNameError("suite", name, suite_names())


def load_train_suite(name: str) -> Suite:
    """Load a suite to train on.

    Raises:
        ConfigError: It is one that is evaluated; names the one that trains in its place.
        UnknownNameError: No suite has that name; near names are suggested.
        DataError: Its data is not at hand, or none of its tasks has a visible test (those without one never train).
    """
    if name in TRAIN_SUITES:
        raise _evaluated(name, TRAIN_SUITES[name])
    suite = load_suite(name)
    if (instead := train_suite_of(suite)) is not None:
        raise _evaluated(name, instead)
    if not any(task.visible.count for task in suite.tasks()):
        raise DataError(
            f"no task of suite {name} shows a test in its prompt, and only such tasks train; use another --suite, "
            "e.g. mbpp-train, or data whose prompts show a test"
        )
    return suite


def train_suite_of(suite: Suite) -> str | None:
    """Which suite trains in the place of one that is evaluated (``""``: none does); None for one that may train.

    A suite is for one or the other. Those of other packages train unless they have an attribute ``train_suite``.

    Raises:
        ConfigError: That attribute is not a string.
    """
    if suite.name in SUITES:
        return TRAIN_SUITES.get(suite.name)
    instead = getattr(suite, "train_suite", None)
    if not isinstance(instead, str | None):
        raise ConfigError(f"train_suite of suite {suite.name} must be a suite's name, not {instead!r}; mend it")
    return instead


def check_evaluated(name: str) -> None:
    """Refuse to evaluate a built-in suite that trains, without loading it.

    Raises:
        ConfigError: It is one; names those that are evaluated in its place.
    """
    if name in SUITES and name not in TRAIN_SUITES:
        instead = [suite for suite, trains in TRAIN_SUITES.items() if trains == name] or list(TRAIN_SUITES)
        raise ConfigError(f"suite {name} trains and is not evaluated; use --suite {' or '.join(instead)}")


def _evaluated(name: str, instead: str) -> ConfigError:
    use = f"use --suite {instead}, or let" if instead else "let"
    return ConfigError(
        f"suite {name} is evaluated and must not train; {use} "
        f"`promptrl solve --suite {name} --split crossfit:5` train on its folds"
    )


def not_at_hand(name: str) -> str:
    """Why a suite had better not be loaded just to be listed: it would download more than a gigabyte; else ``""``."""
    if not name.startswith("apps") or name not in SUITES:
        return ""
    from promptrl_plugin.suites.apps_data import HUB_ID, OVERRIDE, at_hand

    return "" if at_hand() else f"read from {HUB_ID} (over a gigabyte) when first used, or from ${OVERRIDE}"


def suite_names() -> tuple[str, ...]:
    """Every name that `load_suite` takes: the built-in ones, then those of other packages."""
    others = plugin_names(ENTRY_POINT_GROUP) - SUITES.keys()
    return (*SUITES, *sorted(others))
