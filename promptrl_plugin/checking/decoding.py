"""Reading what `codec` wrote; whoever wrote it may have been under a program's control.

A subclass comes back as a subclass of ours with no methods of its own, so that EvalPlus's rule on equal types
still tells it from its base.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

import numpy as np

from promptrl_plugin.checking.codec import DTYPE, MAX_DEPTH, CodecError, Opaque

__all__ = ["decode"]

_U32, _I64, _F64, _C128 = Struct("<I"), Struct("<q"), Struct("<d"), Struct("<dd")


def _subclass(base: type) -> type:
    # No methods: equality and hash are the base's.
    return type(f"{base.__name__}_subclass", (base,), {})


_SUBCLASSES: dict[type, type] = {
    base: _subclass(base)
    for base in (int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, np.ndarray)
}


class _Decoder:
    """Reads nodes of `data` from `at` on; every length is checked against what is there."""

    __slots__ = ("at", "data", "depth")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.depth = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CodecError("cut short")
        part = self.data[self.at : end]
        self.at = end
        return part

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def text(self) -> bytes:
        return self.take(self.u32())

    def node(self) -> Any:
        if self.depth > 2 * MAX_DEPTH + 4:
            raise CodecError("too deep")
        self.depth += 1
        tag = self.take(1)
        read = _READERS.get(tag)
        if read is None:
            raise CodecError(f"unknown tag {tag!r}")
        value = read(self)
        self.depth -= 1
        return value

    def items(self) -> Iterator[Any]:
        count = self.u32()
        if count > len(self.data) - self.at:  # each node takes a byte at least
            raise CodecError("cut short")
        for _ in range(count):
            yield self.node()


def _read_set(d: _Decoder) -> set[Any]:
    # One by one: a set of colliding hashes must stay interruptible by the comparer's alarm.
    found = set()
    for item in d.items():
        found.add(item)
    return found


def _read_dict(d: _Decoder) -> dict[Any, Any]:
    found = {}
    for _ in range(d.u32()):
        key = d.node()
        found[key] = d.node()
    return found


def _read_dtype(d: _Decoder) -> Any:
    text = d.text().decode("ascii", "replace")
    if DTYPE.fullmatch(text) is None:
        raise CodecError(f"no such dtype {text!r}")
    return np.dtype(text)


def _read_scalar(d: _Decoder) -> Any:
    dtype, data = _read_dtype(d), d.text()
    if len(data) != dtype.itemsize or not data:
        raise CodecError("scalar of wrong size")
    return np.frombuffer(data, dtype)[0]


def _read_shape(d: _Decoder) -> tuple[int, ...]:
    (ndim,) = d.take(1)
    return tuple(d.u32() for _ in range(min(ndim, 64)))


def _read_array(d: _Decoder) -> Any:
    dtype, shape = _read_dtype(d), _read_shape(d)
    data = d.text()
    if dtype.itemsize == 0:
        raise CodecError("array of empty items")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _read_object_array(d: _Decoder) -> Any:
    shape, items = _read_shape(d), d.node()
    if type(items) is not list:
        raise CodecError("array without items")
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape)


def _read_subclass(d: _Decoder) -> Any:
    d.text()
    value = d.node()
    kind = _SUBCLASSES.get(type(value))
    if kind is None:
        return value  # opaque, or a wrapper in a wrapper
    return value.view(kind) if type(value) is np.ndarray else kind(value)


_MAKERS: dict[bytes, Callable[..., Any]] = {
    b"Counter": lambda items: collections.Counter(_typed(dict, items)),
    b"OrderedDict": lambda keys, values: collections.OrderedDict(zip(keys, values, strict=True)),
    b"defaultdict": lambda items: collections.defaultdict(None, _typed(dict, items)),
    b"deque": lambda items: collections.deque(items),
    b"Decimal": lambda text: decimal.Decimal(_typed(str, text)),
    b"Fraction": lambda n, d: fractions.Fraction(_typed(int, n), _typed(int, d)),
    b"date": datetime.date,
    b"time": lambda text: datetime.time.fromisoformat(text) if text is not None else Opaque("time"),
    b"datetime": datetime.datetime.fromisoformat,
    b"timedelta": datetime.timedelta,
    b"range": range,
    b"dict_keys": lambda items: dict.fromkeys(items).keys(),
    b"dict_items": lambda items: dict(items).items(),
    b"type": lambda name: getattr(builtins, name) if isinstance(name, str) else Opaque("type"),
}


def _typed(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise CodecError(f"{kind.__name__} expected")
    return value


def _read_std(d: _Decoder) -> Any:
    name, state = d.text(), d.node()
    if isinstance(state, Opaque):  # it contains itself, or is too deep
        return state
    maker = _MAKERS.get(name)
    if maker is None or type(state) is not tuple:
        raise CodecError(f"unknown type {name!r}")
    return maker(*state)


_READERS: dict[bytes, Callable[[_Decoder], Any]] = {
    b"N": lambda d: None,
    b"T": lambda d: True,
    b"F": lambda d: False,
    b"i": lambda d: _I64.unpack(d.take(8))[0],
    b"I": lambda d: int.from_bytes(d.text(), "little", signed=True),
    b"f": lambda d: _F64.unpack(d.take(8))[0],
    b"c": lambda d: complex(*_C128.unpack(d.take(16))),
    b"s": lambda d: d.text().decode("utf-8", "surrogatepass"),
    b"b": lambda d: bytes(d.text()),
    b"B": lambda d: bytearray(d.text()),
    b"l": lambda d: list(d.items()),
    b"t": lambda d: tuple(d.items()),
    b"S": _read_set,
    b"Z": lambda d: frozenset(_read_set(d)),
    b"d": _read_dict,
    b"n": _read_scalar,
    b"a": _read_array,
    b"o": _read_object_array,
    b"u": _read_subclass,
    b"k": _read_std,
    b"x": lambda d: Opaque(d.text().decode("utf-8", "replace")),
}


def decode(data: bytes) -> Any:
    """The value that `data` encodes.

    Raises:
        CodecError: `data` is not one encoded value. Whoever wrote it is then to blame, never the reader.
    """
    d = _Decoder(data)
    try:
        value = d.node()
    except CodecError:
        raise
    except Exception as e:  # a constructor refused the state: unhashable key, bad date, wrong shape
        raise CodecError(f"{type(e).__name__}: {e}") from None
    if d.at != len(data):
        raise CodecError("bytes after the end")
    return value
