"""Values survive the trip, and only values do."""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrl_plugin.checking.codec import MAX_DEPTH, CodecError, Opaque, encode, encode_items
from promptrl_plugin.checking.decoding import decode

LIMIT = 1 << 20


def trip(value: Any) -> Any:
    return decode(encode(value, LIMIT))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers() | st.text()) | st.frozensets(st.integers())
    ),
    max_leaves=20,
)  # fmt: skip


@given(plain)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    back = trip(value)
    assert back == value
    assert repr(type(back)) == repr(type(value))
    assert encode(back, LIMIT) == encode(value, LIMIT) or isinstance(value, (set, frozenset, dict, list, tuple))


@pytest.mark.parametrize(
    "value",
    [
        1 << 5000, -(1 << 63), (1 << 63), -(1 << 63) - 1, True, 1.5 - 2j, "\ud800", bytearray(b"x"),
        collections.Counter("aab"), collections.OrderedDict([("b", 1), ("a", 2)]), collections.deque([1, 2]),
        decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.date(2020, 1, 2), range(3, 9, 2),
        datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC), datetime.timedelta(days=-1, seconds=3), int, ...,
        np.int64(3), np.bool_(True), np.float32(0.5), {1: 2}.keys(), {1: 2}.items(),
    ],
    ids=repr,
)  # fmt: skip
def test_known_types_come_back(value: Any) -> None:
    if value is ...:
        assert isinstance(trip(value), Opaque)
        return
    back = trip(value)
    assert type(back) is type(value)
    assert back == value


def test_arrays_come_back() -> None:
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.array([]),
        np.array("ab"),
        np.array([[1, "x"], [None, 2.5]], object),
    ):
        back = trip(array)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert (back == array).all()


def test_nan_stays_nan() -> None:
    assert math.isnan(trip(float("nan")))
    assert trip([float("nan")]) != [float("nan")]


class Liar(str):
    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self) -> Any:
        raise AssertionError("called")

    __hash__ = str.__hash__
    __len__ = __getitem__ = __str__ = __iter__  # type: ignore[assignment]


def test_a_subclass_arrives_without_its_methods() -> None:
    back = trip(Liar("zzz"))
    assert back == "zzz"
    assert back != "abc"
    assert type(back) is not str  # EvalPlus's type rule must still see a difference

    class ListLiar(list):  # type: ignore[type-arg]
        __eq__ = lambda self, other: True  # noqa: E731

    assert trip([ListLiar([1])]) == [[1]]
    assert trip([ListLiar([1])]) != [[2]]
    assert trip(enum.IntEnum("E", {"a": 5})(5)) == 5


def test_foreign_objects_equal_nothing() -> None:
    class Yes:
        def __eq__(self, other: object) -> bool:
            return True

    for value in (Yes(), [Yes()], {"a": Yes()}, (x for x in ()), len, object()):
        back = trip(value)
        assert back != value
        assert back != trip(value)


def test_a_metaclass_cannot_lie_about_the_type() -> None:
    class Meta(type):
        def mro(cls) -> Any:
            return [cls, int, object] if cls.__name__ == "Fake" else type.mro(cls)

        __name__ = property(lambda cls: "int")  # type: ignore[assignment]

    Odd = Meta("Odd", (), {})
    assert isinstance(trip(Odd()), Opaque)


def test_cycles_and_depth_are_cut() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    back = trip(cycle)
    assert back[0] == 1
    assert isinstance(back[1], Opaque)
    deep: Any = []
    for _ in range(10 * MAX_DEPTH):
        deep = [deep]
    assert trip(deep) != deep


def test_a_shared_item_is_no_cycle() -> None:
    item = [1]
    assert trip([item, item]) == [[1], [1]]


def test_large_values_are_refused_early() -> None:
    doubling: Any = 0
    for _ in range(60):
        doubling = [doubling, doubling]
    endless = iter(int, 1)
    for value in (doubling, "x" * (LIMIT + 1), np.zeros(LIMIT)):
        with pytest.raises(CodecError):
            encode(value, LIMIT)
    with pytest.raises(CodecError):
        encode_items(endless, LIMIT)
    assert decode(encode_items(iter("ab"), LIMIT)) == ["a", "b"]


@settings(max_examples=400)
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: encode([1, "a", {2: (3,)}], LIMIT)[: len(b)] + b))
def test_garbage_raises_nothing_but_codec_error(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode(data)
