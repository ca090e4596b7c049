"""Expected outputs: what the reference returns, computed once a group and kept in a small file.

Computed as `evalplus.gen.util.trusted_exec` does (inputs copied before each call, each call timed), in a
short-lived fork of the comparer. Outputs are kept encoded; of those over `BIG` bytes only a digest is kept,
and in the rare case that an answer differs from it, the comparison makes the output again (EvalPlus's own
cache of MBPP+ is a 793 MB pickle, 781 MB of it one task).

File: ``promptrl-expected-1`` line, then zlib of a u32-prefixed JSON header and the outputs one after another.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import select
import signal
import sys
import tempfile
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from evalplus.eval import is_floats

from promptrl_plugin.checking.codec import Opaque, encode
from promptrl_plugin.checking.compare import CallComparison, not_none_oracle
from promptrl_plugin.checking.isolation import die_with_parent
from promptrl_plugin.checking.runner import HEADER, Frame

__all__ = [
    "BrokenReferenceError",
    "CallSpec",
    "Expected",
    "ExpectedStore",
    "Output",
    "TooSlowError",
    "in_fork",
    "passes_again",
]

BIG = 1 << 20
_STREAM_BYTES = 1 << 20  # of a group's frames that are kept a second time, joined
_MAGIC = b"promptrl-expected-1\n"
_U32 = Struct("<I")
_NO_LIMIT = 1 << 40
_REFERENCE_SECONDS = 900


class BrokenReferenceError(Exception):
    """The reference raised, or its process died: the group cannot be judged."""


class TooSlowError(BrokenReferenceError):
    """A process did not end in its time."""


@dataclass(frozen=True, slots=True)
class CallSpec:
    """A `CallGroup` as the worker holds it; `inputs` is the pickled tuple of argument lists."""

    key: str
    dataset: str
    entry_point: str
    reference: str
    inputs: bytes
    count: int
    atol: float


@dataclass(frozen=True, slots=True)
class Output:
    """One expected output.

    Attributes:
        data: Its encoding, None when larger than `BIG`.
        digest: SHA-256 of the encoding.
        size: Bytes of the encoding.
        plain: Whether an equal encoding means an equal value (not so for NaN, arrays, opaque values).
        floats: EvalPlus's `is_floats` of it.
        seconds: Time that the reference took.
    """

    data: bytes | None
    digest: bytes
    size: int
    plain: bool
    floats: bool
    seconds: float

    def same(self, encoded: bytes) -> bool:
        """Whether `encoded` is this very output, which then passes without decoding."""
        if not self.plain or len(encoded) != self.size:
            return False
        return encoded == self.data if self.data is not None else hashlib.sha256(encoded).digest() == self.digest


@dataclass(frozen=True)
class Expected:
    """Expected outputs of a group, in order."""

    outputs: tuple[Output, ...]

    def leading(self, index: int, sent: bytes | bytearray) -> tuple[int, int]:
        """Of the tests from `index` on, how many have in `sent` the very frames that are right, and their bytes."""
        stream, ends = self._right
        if index + 1 >= len(ends):
            return 0, 0
        begin = ends[index]
        if stream.startswith(sent, begin) or sent.startswith(stream[begin:]):
            count = bisect_right(ends, begin + len(sent)) - 1 - index
        else:  # wrong somewhere: up to there
            frames = range(index + 1, len(ends))
            count = bisect_right(frames, False, key=lambda n: not sent.startswith(stream[begin : ends[n]]))
        return count, ends[index + count] - begin

    @cached_property
    def _right(self) -> tuple[bytes, list[int]]:
        """Frames of the tests that can be decided by their bytes, up to the first that cannot; where each begins."""
        frames = [
            HEADER.pack(Frame.VALUE, o.size) + o.data
            for o in takewhile(lambda o: o.plain and o.data is not None, self.outputs)
            if o.data is not None
        ]
        ends = [n for n in accumulate(map(len, frames), initial=0) if n <= _STREAM_BYTES]
        return b"".join(frames)[: ends[-1]], ends

    @property
    def sizes(self) -> list[int]:
        return [o.size for o in self.outputs]

    @property
    def seconds(self) -> list[float]:
        return [o.seconds for o in self.outputs]


class ExpectedStore:
    """Expected outputs by group: in memory, else on file, else computed.

    Args:
        folder: Where the files are; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, Expected] = {}

    def get(self, spec: CallSpec) -> Expected:
        """Expected outputs of the group.

        Raises:
            BrokenReferenceError: The reference fails on its own inputs.
        """
        found = self._known.get(spec.key) or self._load(spec)
        if found is None:
            found = Expected(tuple(_outputs(spec)))
            self._save(spec, found)
        self._known[spec.key] = found
        return found

    def _path(self, spec: CallSpec) -> Path | None:
        if self._folder is None:
            return None
        made_by = f"{platform.python_version()} {np.__version__} {sys.platform} {platform.machine()}"
        return self._folder / f"{hashlib.sha256(f'{spec.key} {made_by}'.encode()).hexdigest()[:40]}.bin"

    def _load(self, spec: CallSpec) -> Expected | None:
        path = self._path(spec)
        if path is None:
            return None
        try:
            raw = path.read_bytes()
            if not raw.startswith(_MAGIC):
                return None
            return _unpack(zlib.decompress(raw[len(_MAGIC) :]), spec.count)
        except (OSError, ValueError, KeyError, TypeError, zlib.error):  # not there, or torn: compute again
            return None

    def _save(self, spec: CallSpec, expected: Expected) -> None:
        path = self._path(spec)
        if path is None:
            return
        # A full or read-only disk costs time later, nothing else.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp-", delete=False) as file:
                try:
                    file.write(_MAGIC + zlib.compress(_pack(expected), 6))
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise


def _pack(expected: Expected) -> bytes:
    head = [[o.size if o.data is not None else -o.size, o.digest.hex(), o.plain, o.floats, o.seconds]
            for o in expected.outputs]  # fmt: skip
    header = json.dumps(head).encode()
    return _U32.pack(len(header)) + header + b"".join(o.data or b"" for o in expected.outputs)


def _unpack(raw: bytes, count: int) -> Expected:
    (length,) = _U32.unpack_from(raw)
    at = _U32.size + length
    outputs = []
    for size, digest, plain, floats, seconds in json.loads(raw[_U32.size : at]):
        data = raw[at : at + size] if size >= 0 else None
        at += max(size, 0)
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("torn file")
        outputs.append(Output(data, bytes.fromhex(digest), abs(size), bool(plain), bool(floats), float(seconds)))
    if len(outputs) != count:
        raise ValueError("another group")
    return Expected(tuple(outputs))


def _outputs(spec: CallSpec) -> list[Output]:
    """Run the reference on every input, in a fork."""

    def compute() -> list[Output]:
        function = _reference(spec)
        return [_output(spec, function, args) for args in pickle.loads(spec.inputs)]

    result: list[Output] = in_fork(compute, _REFERENCE_SECONDS)
    return result


def _reference(spec: CallSpec) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(spec.reference, namespace)
    function: Callable[..., Any] = namespace[spec.entry_point]
    return function


def _output(spec: CallSpec, function: Callable[..., Any], args: Any) -> Output:
    args = deepcopy(args)
    start = time.time()
    value = function(*args)
    seconds = time.time() - start
    if not_none_oracle(spec.dataset, spec.entry_point):
        value = value is not None
    data = encode(value, _NO_LIMIT)
    digest = hashlib.sha256(data).digest()
    plain, floats = _is_plain(value), bool(is_floats(value))
    return Output(data if len(data) <= BIG else None, digest, len(data), plain, floats, seconds)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in (int, str, bool, type(None), bytes):
        return True
    if kind in (float, complex):
        return bool(value == value)
    if kind in (list, tuple, set, frozenset):
        return all(map(_is_plain, value))
    if kind is dict:
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return False


def passes_again(spec: CallSpec, index: int, out: Any, comparison: CallComparison) -> bool:
    """Compare `out` with an expected output that was too big to keep, made again for the purpose.

    Raises:
        BrokenReferenceError: The reference failed this time.
    """

    def compare() -> bool:
        args = pickle.loads(spec.inputs)[index]
        expected = _reference(spec)(*deepcopy(args))
        return not isinstance(out, Opaque) and comparison.passes(args, expected, out)

    return bool(in_fork(compare, _REFERENCE_SECONDS))


def in_fork(function: Callable[[], Any], seconds: float) -> Any:
    """Result of trusted `function` run in a child process, so that its memory and state go with it.

    Raises:
        TooSlowError: It took longer than `seconds`.
        BrokenReferenceError: It raised, or its process died.
    """
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            _answer(function, writable)
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        slow = not select.select([pipe], [], [], seconds)[0]
        if slow:  # from outside: `function` may use the alarm, or be where no handler runs
            os.kill(pid, signal.SIGKILL)
        data = b"" if slow else pipe.read()
    os.waitpid(pid, 0)
    if slow:
        raise TooSlowError(f"the reference took longer than {seconds:.0f} s")
    if not data:
        raise BrokenReferenceError("the reference's process died")
    result, error = pickle.loads(data)  # written by our own code, after trusted code
    if error is not None:
        raise BrokenReferenceError(error)
    return result


def _answer(function: Callable[[], Any], writable: int) -> None:
    try:
        answer: tuple[Any, str | None] = (function(), None)
    except BaseException as e:
        answer = (None, f"the reference raised {type(e).__name__}: {str(e)[:120]}")
    with open(writable, "wb") as pipe:
        pickle.dump(answer, pipe)
