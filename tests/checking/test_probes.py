"""Generated inputs: from visible material only, like it, and always the same."""

from __future__ import annotations

import ast
import random
import subprocess
import sys

import pytest

from promptrl_plugin.checking.probes import PROBES, ProbeGroup, probe_inputs


def group(*calls: str, view: str = "") -> ProbeGroup:
    return ProbeGroup("f", calls, view)


@pytest.mark.parametrize(
    "calls",
    [
        ("([1, 2, 3], 2)",),
        ("('a word here', 4)",),
        ("([(1, 'x'), (2, 'y')],)",),
        ("({'a': 1, 'b': 2}, 2.5)",),
        ("([[1, 2], [3, 4]],)",),
        ("({1, 2, 3},)",),
    ],
)
def test_inputs_are_new_distinct_and_of_the_visible_types(calls: tuple[str, ...]):
    inputs = probe_inputs(group(*calls))
    texts = [repr(i) for i in inputs]
    seeds = [ast.literal_eval(c) for c in calls]
    assert len(inputs) == PROBES
    assert len(set(texts)) == PROBES
    assert not set(texts) & {repr(list(s)) for s in seeds}
    for arguments in inputs:
        assert [type(a) for a in arguments] == [type(a) for a in seeds[0]]
        assert len(repr(arguments)) < 1000


def test_inputs_stay_within_what_the_visible_ones_show():
    for arguments in probe_inputs(group("([3, 1, 2], 0)")):
        assert arguments[0]
        assert all(type(n) is int and n >= 0 for n in (*arguments[0], arguments[1]))
    negative = probe_inputs(group("([-3, 1], 1)", "([], 1)"))
    assert any(n < 0 for a in negative for n in a[0])
    assert all(a[1] >= 0 for a in negative), "a negative number was shown elsewhere"
    records = probe_inputs(group("([('a', 1), ('b', 2)],)"))
    assert all([type(x) for x in r] == [str, int] for (rows,) in records for r in rows)


def test_inputs_share_no_parts():
    for (rows,) in probe_inputs(group("([[1, 2], [3, 4]],)")):
        assert len({id(row) for row in rows}) == len(rows)


def test_the_same_task_has_the_same_inputs_in_every_process():
    code = (
        "from promptrl_plugin.checking.probes import *; "
        "print(probe_inputs(ProbeGroup('f', (\"('one two three', ['x', 'y'], 1.5)\",))))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] == f"{probe_inputs(group(repr(('one two three', ['x', 'y'], 1.5))))}\n"


def test_the_global_random_generator_is_left_as_it_was():
    random.seed(3)
    wanted = random.random()
    random.seed(3)
    probe_inputs(group("(1, 2)"))
    assert random.random() == wanted


@pytest.mark.parametrize("calls", [(), ("()",), ("(None,)",), ("(b'x',)",)])
def test_where_nothing_can_be_mutated_there_are_no_inputs(calls: tuple[str, ...]):
    assert probe_inputs(group(*calls)) == []


def test_a_small_domain_gives_what_there_is():
    assert probe_inputs(group("(True,)", "(False,)")) == []
    assert probe_inputs(group("(True,)")) == [[False]]


def test_the_key_is_of_what_the_inputs_are_made_from():
    keys = {g.key for g in (group("(1,)"), group("(2,)"), group("(1,)", view="set"), ProbeGroup("g", ("(1,)",)))}
    assert len(keys) == 4
    assert group("(1,)").key == group("(1,)").key
