"""A verdict is made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.records import AssertGroup, GroupVerdict, Status
from promptrl_plugin.storage.cache import Cache


class Scripted:
    """Passes a group when the program contains its first assert; notes what it was asked."""

    def __init__(self, version: str = "v") -> None:
        self.version = version
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def check(
        self, requests: Sequence[JudgeRequest], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[GroupVerdict | None, ...]]:
        answers: list[tuple[GroupVerdict | None, ...]] = []
        for i, r in enumerate(requests):
            self.asked.append((r.program, tuple(g.asserts[0] for g in r.groups)))  # type: ignore[union-attr]
            verdicts: list[GroupVerdict | None] = []
            for g in r.groups:
                stop = r.stop_early and verdicts and (verdicts[-1] is None or verdicts[-1].status != "pass")
                assert isinstance(g, AssertGroup)
                status = Status.ERROR if "!" in r.program else Status.PASS
                status = status if g.asserts[0] in r.program or "!" in r.program else Status.FAIL
                verdicts.append(None if stop else GroupVerdict(status, (status == "pass",), 1))
            answers.append(tuple(verdicts))
            if on_progress:
                on_progress(i)
        return answers

    def close(self) -> None:
        return None


A, B = AssertGroup(("a",)), AssertGroup(("b",))


def statuses(answer: list[tuple[GroupVerdict | None, ...]]) -> list[list[str | None]]:
    return [[v and str(v.status) for v in vs] for vs in answer]


def test_asks_only_for_what_is_new(tmp_path: Path) -> None:
    inner = Scripted()
    judge = CachingJudge(inner, Cache(tmp_path / "c.sqlite"))
    seen: list[int] = []
    requests = [JudgeRequest("a", (A,)), JudgeRequest("b", (A,)), JudgeRequest("a", (A,))]
    assert statuses(judge.check(requests, seen.append)) == [["pass"], ["fail"], ["pass"]]
    assert inner.asked == [("a", ("a",)), ("b", ("a",))]
    assert sorted(seen) == [0, 1, 2]
    assert (judge.hits, judge.misses) == (1, 2)
    assert statuses(judge.check([JudgeRequest("a", (A, B))])) == [["pass", "fail"]]
    assert inner.asked[2:] == [("a", ("b",))]
    again = CachingJudge(Scripted(), Cache(tmp_path / "c.sqlite"))
    assert statuses(again.check(requests)) == [["pass"], ["fail"], ["pass"]]
    assert again.misses == 0


def test_stop_early_from_the_cache(tmp_path: Path) -> None:
    inner = Scripted()
    judge = CachingJudge(inner, Cache(tmp_path / "c.sqlite"))
    request = JudgeRequest("b", (A, B), stop_early=True)
    assert statuses(judge.check([request])) == [["fail", None]]
    assert statuses(judge.check([request])) == [["fail", None]]
    assert len(inner.asked) == 1
    assert statuses(judge.check([JudgeRequest("b", (A, B))])) == [["fail", "pass"]]
    assert inner.asked[1] == ("b", ("b",))
    assert statuses(judge.check([request])) == [["fail", None]], "what is known must not be told"


def test_version_fail_fast_and_errors(tmp_path: Path) -> None:
    inner = Scripted()
    cache = Cache(tmp_path / "c.sqlite")
    judge = CachingJudge(inner, cache)
    judge.check([JudgeRequest("a", (A,))])
    judge.check([JudgeRequest("a", (A,), fail_fast=True)])
    assert len(inner.asked) == 2, "details differ under fail_fast"
    for _ in range(2):
        assert statuses(judge.check([JudgeRequest("!", (A,))])) == [["error"]]
    assert len(inner.asked) == 4, "an error is tried again"
    newer = Scripted("w")
    CachingJudge(newer, cache).check([JudgeRequest("a", (A,))])
    assert len(newer.asked) == 1
