"""APPS's comparison of outputs, on values that hold none of the program's code.

Repeats what ``eval/testing_util.py`` of APPS (Hendrycks et al. 2021, arXiv 2105.09938) does after each test, in its
order of attempts. It is a lenient one: in the end the order of lines, and of words within them, does not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["arguments", "expected_value", "same_output", "same_value"]


def same_output(printed: str, wanted: str) -> bool:
    """Whether APPS takes what a script printed for `wanted`.

    One after another: equal but for white space around the whole, or around each line; equal lines without the
    empty ones; lines that are numbers and close (`numpy.allclose`); the same set of lines, each as the set of its
    words; the same with all words numbers, rounded to three decimals.
    """
    lines = printed.splitlines()
    if wanted.strip() in ("\n".join(lines).strip(), "\n".join(line.strip() for line in lines).strip()):
        return True
    target = [line.strip() for line in wanted.split("\n") if line]
    if lines == target:
        return True
    lines = [line for line in lines if line]
    if lines == target or _close(lines, target):
        return True
    words = [line.split() for line in lines if line.split()]
    target_words = [line.split() for line in target]
    if _as_sets(words) == _as_sets(target_words):
        return True
    try:
        return _as_sets(map(_rounded, words)) == _as_sets(map(_rounded, target_words))
    except (ValueError, OverflowError):
        return False


def _close(lines: Sequence[str], target: Sequence[str]) -> bool:
    try:
        got, wanted = [float(line) for line in lines], [float(line) for line in target]
    except ValueError:
        return False
    return len(got) == len(wanted) and bool(np.allclose(got, wanted))


def _as_sets(lines: Iterable[Sequence[Any]]) -> set[frozenset[Any]]:
    return {frozenset(words) for words in lines}


def _rounded(words: Sequence[str]) -> list[float]:
    return [round(float(word), 3) for word in words]


def same_value(returned: Any, wanted: Any) -> bool:
    """Whether APPS takes what a function returned for `wanted` (see `expected_value`).

    A tuple counts as a list, also within the outermost list; `wanted` may hold the value in a list.

    Raises:
        Exception: Whatever comparing these values raises; APPS takes that for a failure.
    """
    if isinstance(returned, tuple):
        returned = list(returned)
    if bool(returned == wanted):
        return True
    if not isinstance(wanted, list) or not wanted:
        return False
    if bool(returned == wanted[0]):
        return True
    with contextlib.suppress(Exception):
        if isinstance(returned[0], tuple):
            return bool([list(x) for x in returned] == wanted[0])
    return False


def arguments(given: Any) -> list[Any]:
    """Arguments of a call: JSON has only strings for keys, APPS makes integers of those of a first dictionary.

    The dictionary is then the only argument.
    """
    with contextlib.suppress(Exception):
        if isinstance(given[0], dict):
            return [_with_integer_keys(given[0])]
    return list(given)


def expected_value(wanted: Any) -> Any:
    """An expected value, with integers for the keys of a dictionary where they can be read so."""
    with contextlib.suppress(Exception):
        if isinstance(wanted, dict):
            wanted = [_with_integer_keys(wanted)]
    with contextlib.suppress(Exception):
        if isinstance(wanted[0], dict):
            wanted = [_with_integer_keys(wanted[0])]
    return wanted


def _with_integer_keys(value: dict[str, Any]) -> dict[int, Any]:
    return {int(k): v for k, v in value.items()}
