"""A program that runs out of time test after test is given up on, where only its soft score is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from promptrl_plugin.checking.base import JudgeRequest
from promptrl_plugin.checking.caching import CachingJudge
from promptrl_plugin.checking.judge import IsolatedJudge
from promptrl_plugin.config import JudgeConfig
from promptrl_plugin.records import FailureKind, GroupVerdict, Status
from promptrl_plugin.storage.cache import Cache
from promptrl_plugin.suites.hidden import CallGroup

REFERENCE = "def f(x):\n    return x + 1\n"
GROUP = CallGroup("mbpp", "T/1", "f", REFERENCE, tuple([i] for i in range(6)), 0, "plus")
AFTER = CallGroup("mbpp", "T/1", "f", REFERENCE, ([7],), 0, "plus")
#: Right on 0, 3 and 5, and for ever at work on the others.
LOOPS = "def f(x):\n    while x in (1, 2, 4):\n        pass\n    return x + 1\n"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        with IsolatedJudge(JudgeConfig(workers=1)) as judge:
            yield judge


def verdicts(judge: IsolatedJudge | CachingJudge, give_up_after: int, *groups: CallGroup) -> list[GroupVerdict]:
    (found,) = judge.check([JudgeRequest(LOOPS, groups, give_up_after=give_up_after)])
    assert None not in found
    return [v for v in found if v is not None]


def test_the_tests_after_it_count_as_failed_and_other_groups_are_run(judge: IsolatedJudge) -> None:
    stopped, after = verdicts(judge, 2, GROUP, AFTER)
    assert stopped.passed == (True, False, False)
    assert (stopped.status, stopped.total, stopped.failure) == (Status.TIMEOUT, 6, FailureKind.TIMEOUT)
    assert stopped.fraction == 1 / 6
    assert after.status is Status.PASS


def test_nobody_is_given_up_on_unless_asked(judge: IsolatedJudge) -> None:
    for never in (0, 4):
        (whole,) = verdicts(judge, never, GROUP)
        assert whole.passed == (True, False, False, True, False, True)
        assert whole.status is not Status.PASS


def test_the_two_are_not_taken_for_each_other_by_the_cache(judge: IsolatedJudge, tmp_path: Path) -> None:
    caching = CachingJudge(judge, Cache(tmp_path / "verdicts.sqlite"))
    lengths = [len(verdicts(caching, n, GROUP)[0].passed) for n in (2, 0, 2)]
    assert lengths == [3, 6, 3]
    assert (caching.misses, caching.hits) == (2, 1)


def test_groups_after_one_that_hung_are_left_out_where_that_is_asked(judge: IsolatedJudge, tmp_path: Path) -> None:
    request = JudgeRequest(LOOPS, (GROUP, AFTER), give_up_after=1, stop_hung=True)
    caching = CachingJudge(judge, Cache(tmp_path / "verdicts.sqlite"))
    for asked in (judge, caching, caching):
        ((stopped, after),) = asked.check([request])
        assert stopped is not None
        assert stopped.failure is FailureKind.TIMEOUT
        assert after is None
    assert (caching.misses, caching.hits) == (1, 1)
    wrong = replace(request, program="def f(x):\n    return x\n")
    ((failed, ran),) = judge.check([wrong])
    assert failed is not None
    assert ran is not None
    assert (failed.status, ran.status) == (Status.FAIL, Status.FAIL), "wrong is not hung"
