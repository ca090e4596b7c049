"""What counts as the same output, and what programs are seen to do in the real judge."""

from __future__ import annotations

import collections
import datetime
import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptrl_plugin.checking.base import ProbeRequest
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.checking.codec import Opaque, encode
from promptrl_plugin.checking.decoding import decode
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.checking.outcomes import canonical
from promptrl_plugin.checking.probes import ProbeGroup, probe_inputs
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.storage.cache import Cache


class Sub(list):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.1 + 0.2, 0.3),
        (1234567.0, 1234567.0000001),
        (-0.0, 0),
        (math.nan, math.nan),
        (Fraction(1, 2), 0.5),
        (Decimal("0.25"), 0.25),
        (complex(2, 0), 2),
        ({1, 2, 3}, frozenset((3, 1, 2))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}),
        ({"a": 1}, collections.Counter("a")),
        ([1, [2]], Sub([1, [2]])),
        (np.int64(3), 3),
        (np.array([1.0, 2.0]), np.array([1, 2])),
        (bytearray(b"x"), b"x"),
    ],
)
def test_the_same(one: Any, other: Any):
    one, other = (decode(encode(v, 10_000)) for v in (one, other))
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, "1"),
        (0.1, 0.1001),
        (10**20, 10**20 + 1),
        ([1, 2], (1, 2)),
        ([1, 2], [2, 1]),
        ([1, 2], {1, 2}),
        (["a,b"], ["a", "b"]),
        ([[1], 2], [1, [2]]),
        ({"a": 1}, {"a": 2}),
        (None, False),
        ("", []),
        (math.inf, -math.inf),
        (math.nan, None),
        (b"x", "x"),
        (complex(1, 2), complex(2, 1)),
        (datetime.date(2024, 1, 2), datetime.date(2024, 2, 1)),
        (collections.deque([1]), [1]),
    ],
)
def test_not_the_same(one: Any, other: Any):
    assert canonical(one) != canonical(other)


def test_an_object_of_a_program_equals_only_those_of_the_same_program():
    assert canonical([Opaque("A")], "p") == canonical([Opaque("A")], "p") != canonical([Opaque("A")], "q")


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=3)
    ),
    max_leaves=8,
)


@given(_VALUES, _VALUES)
def test_canonical_forms_are_equal_exactly_where_python_says_so(one: Any, other: Any):
    assert (canonical(one) == canonical(other)) is (one == other)


# --- in the judge ---------------------------------------------------------------------------------

SQUARES = ProbeGroup("squares", ("([3, 1, 2],)",))
LOOP = "def squares(xs):\n    out = []\n    for x in xs:\n        out.append(x ** 2)\n    return sorted(out)\n"
SHORT = "import math\nsquares = lambda xs: [math.prod((x, x)) for x in sorted(xs)]\n"
CHEAT = "def squares(xs):\n    return [1, 4, 9]\n"  # passes `squares([3, 1, 2]) == [1, 4, 9]`


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            yield judge


def run(judge: IsolatedJudge, *programs: str, group: ProbeGroup = SQUARES) -> list[tuple[str, ...]]:
    outcomes = judge.execute([ProbeRequest(p, group) for p in programs])
    assert all(o is not None for o in outcomes)
    return [o for o in outcomes if o is not None]


def test_right_programs_written_differently_agree_and_a_wrong_one_does_not(judge: IsolatedJudge):
    loop, short, cheat = run(judge, LOOP, SHORT, CHEAT)
    assert len(loop) == len(probe_inputs(SQUARES))
    assert loop == short != cheat
    assert all(o.startswith("=") for o in loop)
    assert len(set(cheat)) == 1


def test_how_a_call_ends_is_an_outcome_too(judge: IsolatedJudge):
    raising, other, loops, leaves, large, broken, nothing = run(
        judge,
        "def squares(xs):\n    raise KeyError('one message')\n",
        "def squares(xs):\n    raise KeyError('another')\n",
        "def squares(xs):\n    while len(xs) == 3: pass\n    return xs\n",
        "import os\ndef squares(xs):\n    os._exit(0) if len(xs) == 3 else None\n",
        "def squares(xs):\n    return 'x' * 3_000_000\n",
        "def squares(xs): return 1 +\n",
        "x = 1\n",
    )
    assert set(raising) == {"raised KeyError"}
    assert raising == other
    assert "timeout" in loops
    assert any(o.startswith("=") for o in loops)
    assert leaves[-1] == "crash"
    assert set(large) == {"large"}
    assert set(broken) == set(nothing) == {"crash"}


def test_a_program_cannot_pretend_to_agree_by_its_own_equality(judge: IsolatedJudge):
    liar = "class A:\n    def __eq__(self, other): return True\ndef squares(xs): return A()\n"
    one, again, other = run(judge, liar, liar, liar + "# another\n")
    assert one == again != other


def test_arguments_that_a_program_changes_are_whole_at_the_next_call(judge: IsolatedJudge):
    eater = "def squares(xs):\n    out = sorted(x * x for x in xs)\n    xs.clear()\n    return out\n"
    assert run(judge, eater) == run(judge, LOOP)


def test_outputs_are_seen_through_what_the_visible_tests_put_around_the_call(judge: IsolatedJudge):
    both = [
        "def squares(xs):\n    return [x * x for x in xs]\n",
        "def squares(xs):\n    return (x * x for x in set(xs))\n",
    ]
    plain, lazy = run(judge, *both)
    assert plain != lazy
    plain, lazy = run(judge, *both, group=ProbeGroup("squares", SQUARES.calls, "set"))
    assert plain == lazy


def test_what_was_run_once_is_remembered(judge: IsolatedJudge, tmp_path: Path):
    class Counting(IsolatedJudge):
        ran = 0

        def execute(self, requests):  # type: ignore[no-untyped-def]
            Counting.ran += len(requests)
            return judge.execute(requests)

    requests = [ProbeRequest(p, SQUARES) for p in (LOOP, CHEAT, LOOP)]
    with Cache(tmp_path / "cache.sqlite") as cache:
        first = CachingJudge(Counting(), cache).execute(requests)
        assert Counting.ran == 2
        again = CachingJudge(Counting(), cache).execute(requests)
        assert Counting.ran == 2
        assert again == first
        CachingJudge(Counting(), cache).execute([ProbeRequest(LOOP, ProbeGroup("squares", ("([5, 6],)",)))])
        assert Counting.ran == 3
        assert cache.counts()["outcomes"] == 3


def test_a_program_that_could_not_be_run_is_not_remembered(tmp_path: Path):
    class Broken(IsolatedJudge):
        def execute(self, requests):  # type: ignore[no-untyped-def]
            return [None] * len(requests)

    with Cache(tmp_path / "cache.sqlite") as cache:
        assert CachingJudge(Broken(), cache).execute([ProbeRequest(LOOP, SQUARES)]) == [None]
        assert cache.counts()["outcomes"] == 0
