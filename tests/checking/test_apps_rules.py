"""APPS's comparison, case by case as its testing_util.py decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from promptrl_plugin.checking.apps_rules import arguments, expected_value, same_output, same_value


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        ("1\n2\n", "1\n2"),
        ("  1  \n2  \n", "1\n2\n"),
        ("1\n\n\n2\n", "1\n2\n"),  # without empty lines
        ("1\n2", "1\n\n2\n"),
        ("0.33333333\n", "0.33333334"),  # numpy.allclose
        ("1e3\n", "1000\n"),
        ("1 2 3\n", "3 1 2\n"),  # words of a line in any order
        ("b\na\n", "a\nb\n"),  # lines in any order
        ("1.0001 2\n", "1.0002 2.0\n"),  # three decimals
        ("", ""),
    ],
)
def test_outputs_that_count_as_the_same(printed: str, wanted: str) -> None:
    assert same_output(printed, wanted)


@pytest.mark.parametrize(
    ("printed", "wanted"),
    [
        ("1\n", "2\n"),
        ("yes\n", "YES\n"),
        ("1 2\n", "1\n2\n"),  # another set of lines
        ("0.334\n", "0.333\n"),
        ("", "0\n"),
        ("a b\n", "a b c\n"),
        ("nan\n", "1\n"),
        ("inf 1\n", "1 2\n"),
    ],
)
def test_outputs_that_do_not(printed: str, wanted: str) -> None:
    assert not same_output(printed, wanted)


@pytest.mark.parametrize(
    ("returned", "wanted", "same"),
    [
        (3, 3, True),
        (3, [3], True),  # the value in a list, as Codewars' tasks have it
        ((1, 2), [1, 2], True),
        ([(1, 2), (3, 4)], [[[1, 2], [3, 4]]], True),
        ([(1, 2)], [[1, 2]], False),  # tuples within count only for a value in a list
        ([1, 2], [1, 3], False),
        ("a", ["b"], False),
        (None, [], False),
        (True, [1], True),
        (0.1 + 0.2, [0.3], False),  # no tolerance here
    ],
)
def test_values(returned: Any, wanted: Any, same: bool) -> None:
    assert same_value(returned, wanted) is same


def test_an_array_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="ambiguous"):
        same_value(np.array([1, 2]), [1, 2])


def test_keys_of_dictionaries_become_integers() -> None:
    assert arguments([{"1": 2}]) == [{1: 2}]
    assert arguments([{"a": 2}, 3]) == [{"a": 2}, 3]
    assert arguments([[1], "x"]) == [[1], "x"]
    assert expected_value({"1": 2}) == [{1: 2}]
    assert expected_value([{"1": 2}]) == [{1: 2}]
    assert expected_value([{"a": 2}]) == [{"a": 2}]
    assert expected_value(4) == 4
