"""EvalPlus's comparison rules, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from promptrl_plugin.checking.codec import Opaque
from promptrl_plugin.checking.compare import CallComparison


def passes(expected: Any, out: Any, *, name: str = "f", atol: float = 0, dataset: str = "mbpp", args: Any = ()) -> bool:
    return CallComparison(dataset, name, atol).passes(args, expected, out)


def test_plain_equality() -> None:
    assert passes(1, 1)
    assert passes(1, 1.0)
    assert passes(True, np.True_)
    assert not passes(1, 2)
    assert not passes([1, 2], (1, 2))
    assert not passes([1], np.array([2]))


def test_floats_get_a_tolerance() -> None:
    assert passes(0.5, 0.5 + 1e-9)
    assert passes([0.5, 1.0], [0.5, 1.0 + 1e-9])
    assert not passes(0.5, 0.51)
    assert not passes(0.5, np.float64(0.5 + 1e-9)), "types must be equal once values are not"
    assert not passes([0.5], [0.5, 0.5])
    assert not passes(float("nan"), float("nan"))


def test_the_tolerance_sticks_for_later_tests() -> None:
    comparison = CallComparison("mbpp", "f", 0)
    assert not comparison.passes((), {"a": 1.0}, {"a": 1.0 + 1e-9})
    assert not comparison.passes((), (1, 0.5), (1, 0.5 + 1e-9))
    assert comparison.passes((), 0.5, 0.5)
    assert comparison.passes((), (1, 0.5), (1, 0.5 + 1e-9))


def test_a_test_decided_elsewhere_sets_it_too() -> None:
    comparison = CallComparison("mbpp", "f", 0)
    comparison.note_expected(True)
    assert comparison.passes((), (1, 0.5), (1, 0.5 + 1e-9))


def test_set_oracle() -> None:
    assert passes((1, 2), [2, 1, 1], name="similar_elements")
    assert not passes((1, 2), [1], name="similar_elements")
    assert not passes((1, 2), Opaque("A"), name="similar_elements")
    assert not passes(([1],), ([1],), name="similar_elements"), "unhashable items fail in EvalPlus"
    assert not passes((1, 2), [2, 1], name="similar_elements", dataset="humaneval")


def test_not_none_oracle() -> None:
    assert passes(True, Opaque("Match"), name="check_str")
    assert passes(False, None, name="check_str")
    assert not passes(True, None, name="check_str")
    assert not passes(True, False, name="check_str")


def test_special_oracles() -> None:
    assert passes(True, "anything", name="are_equivalent")
    assert passes(12, 0, name="sum_div")
    assert not passes(12, 1, name="sum_div")
    assert passes(0, 35, name="surface_Area", args=(3, 4))
    assert not passes(0, 34, name="surface_Area", args=(3, 4))
    assert not passes(0, Opaque("A"), name="surface_Area", args=(3, 4))
    assert passes(99, 1, name="digit_distance_nums", args=(1, 2))


@pytest.mark.parametrize(("root", "ok"), [(-0.5, True), (0.5, False)])
def test_find_zero(root: float, ok: bool) -> None:
    comparison = CallComparison("humaneval", "find_zero", 1e-4)
    assert comparison.uncounted
    assert comparison.passes(([1, 2],), None, root) is ok
