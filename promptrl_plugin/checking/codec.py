"""Python values as bytes, safe to read from a process that runs foreign code; `decoding` reads them.

The child that runs a program encodes what the program returned; the comparer decodes it. Nothing of the
program's own code survives the trip: a value of a built-in, standard-library or numpy type arrives as
that type, a subclass arrives as a plain subclass of ours without any of its methods, and everything else
arrives as an `Opaque`, which equals nothing. So a lying ``__eq__`` cannot reach the comparison.

Format: one tag byte a node, little-endian, lengths as u32. ``N`` None, ``T`` ``F`` booleans, ``i`` int64,
``I`` longer integers (two's complement), ``f`` float64, ``c`` complex, ``s`` str (UTF-8, surrogates
kept), ``b`` bytes, ``B`` bytearray, ``l`` list, ``t`` tuple, ``S`` set, ``Z`` frozenset, ``d`` dict, ``n``
numpy scalar, ``a`` numpy array, ``u`` subclass (type name, base value), ``k`` standard-library type (name,
state), ``x`` opaque (type name).
"""

from __future__ import annotations

import builtins as _builtins
import collections
import datetime
import decimal
import fractions
import re
import sys
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

__all__ = ["DTYPE", "MAX_DEPTH", "CodecError", "Opaque", "encode", "encode_items"]

# This module also runs beside foreign code, which may replace builtins; its functions keep their own copy.
globals()["__builtins__"] = dict(vars(_builtins))

MAX_DEPTH = 150  #: deeper values are opaque: recursion must stay far from the interpreter's limit

_U32, _I64, _F64, _C128 = Struct("<I"), Struct("<q"), Struct("<d"), Struct("<dd")
_u32, _i64, _f64 = _U32.pack, _I64.pack, _F64.pack
_MIN, _MAX = -(1 << 63), (1 << 63) - 1
_modules = sys.modules  # numpy is there once a program has imported it; this module does not
DTYPE = re.compile(r"[<>|=](?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU]\d{1,9}|[mM]8(?:\[\w{1,8}\])?)")


class CodecError(Exception):
    """A value too large to send, or bytes that are not an encoded value."""


class Opaque:
    """A value that has no plain form: a program's own object, a function, an iterator, a cycle.

    Args:
        type_name: Name of its type, for the reader of a failure.
    """

    __slots__ = ("type_name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self.type_name} object>"


class _Encoder:
    """Appends nodes to `data`; stops as soon as they exceed `limit` bytes.

    One growing array: a list of pieces would take ten times the memory, and some references return a
    gigabyte (Mbpp/255).
    """

    __slots__ = ("data", "depth", "left", "open")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.left = limit
        self.depth = 0
        self.open: set[int] = set()  # ids of the containers that are being written: meeting one is a cycle

    def add(self, value: Any) -> None:
        write = _WRITERS.get(type(value))
        if write is None:
            write = _write_other
        write(self, value)

    def put(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            raise CodecError("value too large")
        self.data += data

    def put_text(self, tag: bytes, data: bytes) -> None:
        self.put(tag + _u32(len(data)))
        self.put(data)

    def put_items(self, tag: bytes, owner: Any, items: Iterable[Any], count: int) -> None:
        """Write a container; `owner` is what a cycle would lead back to."""
        if self.depth >= MAX_DEPTH or id(owner) in self.open:
            _write_opaque(self, owner)
            return
        self.put(tag + _u32(count))
        self.depth += 1
        self.open.add(id(owner))
        add, put = self.add, self.put
        for item in items:
            if type(item) is int and _MIN <= item <= _MAX:  # most of what programs return, without a call
                put(b"i" + _i64(item))
            else:
                add(item)
        self.open.discard(id(owner))
        self.depth -= 1


def _write_int(e: _Encoder, v: int) -> None:
    if _MIN <= v <= _MAX:
        e.put(b"i" + _i64(v))
    else:
        e.put_text(b"I", int.to_bytes(v, v.bit_length() // 8 + 1, "little", signed=True))


def _write_float(e: _Encoder, v: float) -> None:
    e.put(b"f" + _f64(v))


def _write_str(e: _Encoder, v: str) -> None:
    data = str.encode(v, "utf-8", "surrogatepass")
    e.put_text(b"s", data)


def _write_dict(e: _Encoder, v: dict[Any, Any]) -> None:
    e.put_items(b"d", v, (x for item in dict.items(v) for x in item), dict.__len__(v))


def _write_opaque(e: _Encoder, v: Any) -> None:
    e.put_text(b"x", _type_name(v))


def _type_name(v: Any) -> bytes:
    return str.encode(type.__dict__["__name__"].__get__(type(v))[:80], "utf-8", "replace")


def _write_scalar(e: _Encoder, v: Any) -> None:
    dtype = v.dtype.str
    if DTYPE.fullmatch(dtype) is None:
        _write_opaque(e, v)
        return
    e.put_text(b"n", dtype.encode())
    e.put_text(b"", v.tobytes())


def _write_array(e: _Encoder, v: Any, np: Any) -> None:
    # tobytes of the base class: a subclass may override it.
    if v.dtype.hasobject:
        if v.dtype != np.dtype(object) or v.ndim > 32:
            _write_opaque(e, v)
            return
        e.put(b"o" + bytes([v.ndim]) + b"".join(_u32(n) for n in v.shape))
        e.put_items(b"l", v, list(np.ndarray.flatten(v)), v.size)
        return
    dtype = v.dtype.str
    if DTYPE.fullmatch(dtype) is None:
        _write_opaque(e, v)
        return
    e.put_text(b"a", dtype.encode())
    e.put(bytes([v.ndim]) + b"".join(_u32(n) for n in v.shape))
    if v.nbytes > e.left:
        raise CodecError("value too large")
    e.put_text(b"", np.ndarray.tobytes(v))


def _state(name: str, state: Callable[[Any], tuple[Any, ...]]) -> Callable[[_Encoder, Any], None]:
    """Writer of a standard-library type: its name, and the plain values that make it again."""

    def write(e: _Encoder, v: Any) -> None:
        e.put_text(b"k", name.encode())
        items = state(v)
        e.put_items(b"t", v, items, len(items))

    return write


def _builtin_name(kind: type) -> str | None:
    name = kind.__name__
    return name if vars(_builtins).get(name) is kind else None


#: Subclasses (of these, in this order) are sent as their base value: what is left without their methods.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__pos__),
    (float, float.__pos__),
    (complex, complex.__pos__),
    (str, lambda v: str.__getitem__(v, slice(None)) if str.__len__(v) else ""),
    (bytes, lambda v: bytes.__getitem__(v, slice(None)) if bytes.__len__(v) else b""),
    (bytearray, lambda v: bytearray.__getitem__(v, slice(None))),
    (list, lambda v: list.__getitem__(v, slice(None))),
    (tuple, lambda v: tuple.__getitem__(v, slice(None))),
    (set, lambda v: set.copy(v)),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))),
)


def _write_other(e: _Encoder, v: Any) -> None:
    kind = type(v)
    mro = type.mro(kind)
    np = _modules.get("numpy")
    if np is not None:
        if kind is np.ndarray:
            _write_array(e, v, np)
            return
        if np.generic in mro and kind in np.sctypeDict.values() and v.dtype.itemsize:
            _write_scalar(e, v)
            return
        if np.ndarray in mro:
            e.put_text(b"u", _type_name(v))
            _write_array(e, np.ndarray.view(v, np.ndarray), np)
            return
    for base, plain in _BASES:
        if base in mro:
            if id(v) in e.open or e.depth >= MAX_DEPTH:
                break
            e.put_text(b"u", _type_name(v))
            e.depth += 1
            e.open.add(id(v))
            value = plain(v)
            _WRITERS[base](e, value if type(value) is base else base(value))
            e.open.discard(id(v))
            e.depth -= 1
            return
    _write_opaque(e, v)


_WRITERS: dict[type, Callable[[_Encoder, Any], None]] = {
    type(None): lambda e, v: e.put(b"N"),
    bool: lambda e, v: e.put(b"T" if v else b"F"),
    int: _write_int,
    float: _write_float,
    complex: lambda e, v: e.put(b"c" + _C128.pack(v.real, v.imag)),
    str: _write_str,
    bytes: lambda e, v: e.put_text(b"b", v),
    bytearray: lambda e, v: e.put_text(b"B", bytes(v)),
    list: lambda e, v: e.put_items(b"l", v, v, len(v)),
    tuple: lambda e, v: e.put_items(b"t", v, v, len(v)),
    set: lambda e, v: e.put_items(b"S", v, v, len(v)),
    frozenset: lambda e, v: e.put_items(b"Z", v, v, len(v)),
    dict: _write_dict,
    collections.Counter: _state("Counter", lambda v: (dict(dict.items(v)),)),
    collections.OrderedDict: _state("OrderedDict", lambda v: (list(dict.keys(v)), list(dict.values(v)))),
    collections.defaultdict: _state("defaultdict", lambda v: (dict(dict.items(v)),)),
    collections.deque: _state("deque", lambda v: (list(v),)),
    decimal.Decimal: _state("Decimal", lambda v: (str(v),)),
    fractions.Fraction: _state("Fraction", lambda v: (v.numerator, v.denominator)),
    datetime.date: _state("date", lambda v: (v.year, v.month, v.day)),
    datetime.time: _state("time", lambda v: (v.isoformat(),) if v.tzinfo is None else (None,)),
    datetime.datetime: _state("datetime", lambda v: (v.isoformat(),)),
    datetime.timedelta: _state("timedelta", lambda v: (v.days, v.seconds, v.microseconds)),
    range: _state("range", lambda v: (v.start, v.stop, v.step)),
    type({}.keys()): _state("dict_keys", lambda v: (list(v),)),
    type({}.items()): _state("dict_items", lambda v: (list(v),)),
    type: _state("type", lambda v: (_builtin_name(v),)),
}


def encode(value: Any, limit: int) -> bytes:
    """Encode `value` in at most `limit` bytes.

    Raises:
        CodecError: It needs more.
    """
    e = _Encoder(limit)
    e.add(value)
    return bytes(e.data)


def encode_items(items: Iterable[Any], limit: int) -> bytes:
    """Encode what an iterable yields as a list, stopping once that needs more than `limit` bytes.

    Raises:
        CodecError: It needs more.
    """
    e = _Encoder(limit)
    count = 0
    for item in items:
        e.add(item)
        count += 1
    return b"l" + _u32(count) + bytes(e.data)
