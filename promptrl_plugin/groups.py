"""Groups of tests that a reader of a prompt may see, and the hash that identifies them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["AssertGroup", "PairGroup", "content_hash", "read_json", "write_json"]


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of `parts`; the identity of tasks, prompts and programs."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_json(text: str) -> Any:
    """`json.loads` for integers of any length: APPS has some beyond Python's limit of 4,300 digits.

    Raises:
        ValueError: `text` is not JSON.
    """
    with _any_length():
        return json.loads(text)


def write_json(value: Any) -> str:
    """`json.dumps` for integers of any length, see `read_json`."""
    with _any_length():
        return json.dumps(value)


@contextlib.contextmanager
def _any_length() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


@dataclass(frozen=True, slots=True)
class AssertGroup:
    """Tests given as Python assert statements (the visible tests; the original MBPP's hidden ones).

    Attributes:
        asserts: Each one complete statement, e.g. ``"assert f(2) == False"``.
        setup: Code that the asserts need (imports, helper classes); runs before the program.
    """

    asserts: tuple[str, ...]
    setup: str = ""

    @property
    def count(self) -> int:
        """Number of tests."""
        return len(self.asserts)

    @property
    def key(self) -> str:
        """Content hash; the test side of a verdict's cache key."""
        return content_hash("assert", self.setup, self.asserts)


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Tests given as pairs of input and output, judged by APPS's rules (arXiv 2105.09938).

    Attributes:
        function: Function, or method of a class ``Solution``, to call; ``""`` for a script that reads standard
            input and prints.
        inputs: One text a test: standard input, or for a function the JSON list of its arguments.
        outputs: One text a test: what is to be printed, or the JSON of what is to be returned.
    """

    function: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of tests."""
        return len(self.inputs)

    @property
    def key(self) -> str:
        """Content hash; the test side of a verdict's cache key."""
        return content_hash("pairs", self.function, self.inputs, self.outputs)

    @property
    def asserts(self) -> tuple[str, ...]:
        """The tests of a function as assert statements, for a reader; of a script there are none."""
        return _asserts(self.function, self.inputs, self.outputs) if self.function else ()


@functools.lru_cache(maxsize=4096)
def _asserts(function: str, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
    found = []
    for given, wanted in zip(inputs, outputs, strict=True):
        value = read_json(wanted)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            found.append(f"assert {function}({', '.join(map(repr, read_json(given)))}) == {value!r}")
        except ValueError:  # an integer too long to be written
            continue
    return tuple(found)
