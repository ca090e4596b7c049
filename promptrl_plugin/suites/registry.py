"""Suites by name: the built-in table and the entry-point group ``promptrl.suites``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Literal

from promptrl_plugin.errors import UnknownNameError
from promptrl_plugin.suites.base import Suite

__all__ = ["ENTRY_POINT_GROUP", "SUITES", "load_suite", "suite_names"]

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
    }
)


def load_suite(name: str) -> Suite:
    """Load a suite.

    Raises:
        UnknownNameError: No suite has that name; near names are suggested.
        DataError: Its data is missing, unreachable or malformed.
    """
    if name in SUITES:
        return SUITES[name]()
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            suite: Suite = point.load()()
            return suite
    raise UnknownNameError("suite", name, suite_names())


def suite_names() -> tuple[str, ...]:
    """Every name that `load_suite` takes: the built-in ones, then those of other packages."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - SUITES.keys()
    return (*SUITES, *sorted(others))
