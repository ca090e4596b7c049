"""Assert statements are cut into the program's expressions and a trusted rest."""

from __future__ import annotations

from typing import Any

import pytest

from promptrl_plugin.checking.codec import Opaque
from promptrl_plugin.checking.programs import LeafError, plan_assert


@pytest.mark.parametrize(
    ("source", "leaves", "right", "wrong"),
    [
        ("assert f(2) == [1, -2]", ("f(2)",), [1, -2], [1, 2]),
        ("assert f([1, 2])[0] is None, 'message'", ("f([1, 2])[0]",), None, 0),
        ("assert not f('a')", ("f('a')",), False, True),
        ("assert f()", ("f()",), 1, 0),
        ("assert set(f(1)) == set((1, 2))", ("f(1)",), [2, 1], [1]),
        ("assert math.isclose(f(1), 0.5, rel_tol=0.01)", ("f(1)",), 0.501, 0.51),
        ("assert abs(f(1) - 0.5) < 1e-6", ("f(1)",), 0.5, 0.6),
        ("assert f(1) == 2 * 3 + 4 ** 2", ("f(1)",), 22, 21),
        ("assert sum(10, 15) == 6", ("sum(10, 15)",), 6, 25),
        ("assert isinstance(f(1), int) and f(1) > 0", ("f(1)", "f(1)"), 3, 0),
        ("assert 0 < f(1) < 3", ("f(1)",), 2, 3),
        ("assert f({'a': 1}) == {'a': (1, {2})}", ("f({'a': 1})",), {"a": (1, {2})}, {"a": (1, 2)}),
        ("assert [x for x in f(1)] == [1]", ("[x for x in f(1)]",), [1], [2]),
    ],
)
def test_split(source: str, leaves: tuple[str, ...], right: Any, wrong: Any) -> None:
    plan = plan_assert(source)
    assert plan.leaves == leaves
    assert plan.holds([right] * len(leaves))
    assert not plan.holds([wrong] * len(leaves))


def test_a_foreign_object_satisfies_nothing() -> None:
    for source in ("assert f(1) == 1", "assert f(1) == f(1)", "assert f(1) in [1]"):
        plan = plan_assert(source)
        assert plan.leaves is not None
        assert not plan.holds([Opaque("A") for _ in plan.leaves])


def test_failed_leaves_count_only_when_needed() -> None:
    plan = plan_assert("assert f(1) == 1 or g(1) == 1")
    assert plan.holds([1, LeafError("g(1)")])
    with pytest.raises(LeafError):
        plan.holds([2, LeafError("g(1)")])


def test_the_frame_does_not_compute_what_would_exhaust_it() -> None:
    for source in ("assert f(1) * 1000000000 == 1", "assert f(1) ** 99999999 == 1", "assert f(1) % 5"):
        plan = plan_assert(source)
        with pytest.raises((OverflowError, TypeError)):
            plan.holds(["%100000000d" if "%" in source else [1] if "*" in source and "**" not in source else 10**9])


@pytest.mark.parametrize("source", ["f(1)", "assert f(1) == 1\nassert f(2) == 2", "assert (", "x = 1"])
def test_other_statements_run_whole(source: str) -> None:
    plan = plan_assert(source)
    assert plan.leaves is None
    assert plan.source == source


def test_wanted() -> None:
    assert plan_assert("assert f(1) == -2").wanted() == -2
    with pytest.raises(LookupError):
        plan_assert("assert f(1) < 2").wanted()
