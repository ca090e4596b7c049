"""Which of the waiting jobs goes next."""

from __future__ import annotations

import numpy as np

from promptrl_plugin.backbones.jobs import Job, Queue
from promptrl_plugin.backbones.stopping import StopRule
from promptrl_plugin.records import Decoding


def job(*tokens: int) -> Job:
    return Job(np.array(tokens), Decoding(), StopRule(None, frozenset(), ()), np.empty(0))


def drained(queue: Queue, count: int = 100) -> list[tuple[int, ...]]:
    taken: list[tuple[int, ...]] = []
    while queue and len(taken) < count:
        first = queue.first()
        assert queue.pop() is first
        taken.append(tuple(first.tokens.tolist()))
    return taken


def test_the_jobs_of_a_call_come_in_token_order() -> None:
    queue = Queue()
    queue.add([job(5, 1), job(3), job(5, 0, 7), job(4)])
    assert {len(j.tokens) for j in queue} == {1, 2, 3}
    assert drained(queue) == [(3,), (4,), (5, 0, 7), (5, 1)]
    assert not queue


def test_a_small_call_does_not_wait_behind_a_large_one() -> None:
    queue = Queue()
    queue.add([job(n) for n in range(10)])
    assert drained(queue, 2) == [(0,), (1,)]
    queue.add([job(50), job(40)])
    queue.add([])
    assert drained(queue, 3) == [(40,), (50,), (2,)]
    queue.add([job(60 + n) for n in range(20)])
    assert drained(queue, 7) == [(n,) for n in range(3, 10)], "the one that is nearly done ends first"
    assert len(drained(queue)) == 20
