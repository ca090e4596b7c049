"""The scheduler: batching, budgets, order of results."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from promptrl_plugin.env.scheduler import Job, Scheduler
from promptrl_plugin.errors import BudgetError
from promptrl_plugin.records import (
    AssertGroup,
    Check,
    Completion,
    Decoding,
    Generate,
    GenerationRequest,
    GroupVerdict,
    Prompt,
    Status,
    Task,
)


class Recorder:
    """A backbone that echoes the prompt and records the size of each call."""

    name = fingerprint = "recorder"
    chat = True

    def __init__(self, mark: str = "") -> None:
        self.calls: list[int] = []
        self.mark = mark

    def generate(self, requests: Sequence[GenerationRequest], on_progress: Any = None) -> list[Completion]:
        self.calls.append(len(requests))
        out = [Completion(self.mark + r.prompt.plain, 3, 5, "stop") for r in requests]
        for i, c in enumerate(out):
            if on_progress is not None:
                on_progress(i, c)
        return out

    def close(self) -> None: ...


def task(name: str) -> Task:
    return Task(name, "test", "mbpp", name, "f", AssertGroup(()))


def ask(text: str, n: int = 1, rewriter: bool = False) -> Generate:
    request = GenerationRequest(Prompt((), "", text), Decoding())
    return Generate((request,) * n, rewriter=rewriter)


def checker(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
    return [GroupVerdict(Status.PASS, (True,), 1, detail=f"{t.id}:{p}") for t, p in programs]


def worker(name: str, rounds: int) -> Generator[Any, Any, list[str]]:
    seen = []
    for i in range(rounds):
        (completion,) = yield ask(f"{name}{i}")
        (verdict,) = yield Check((completion.text,))
        seen.append(verdict.detail)
    return seen


def test_jobs_advance_together_in_one_batch_a_wave():
    backbone = Recorder()
    jobs = [Job(task(n), worker(n, r), budget=r) for n, r in (("a", 1), ("b", 3), ("c", 2))]
    results = Scheduler(backbone, checker).run(jobs)
    assert backbone.calls == [3, 2, 1]
    assert results[1] == ["b:b0", "b:b1", "b:b2"]
    assert [j.usage.generations for j in jobs] == [1, 3, 2]
    assert (jobs[1].usage.prompt_tokens, jobs[1].usage.completion_tokens) == (9, 15)


def test_overspending_is_an_error_not_clipped():
    with pytest.raises(BudgetError, match="a: 3 generations asked for, the budget is 2"):
        Scheduler(Recorder(), checker).run([Job(task("a"), worker("a", 3), budget=2)])


def test_rewrites_go_to_the_rewriter_and_count():
    def rewriting() -> Generator[Any, Any, str]:
        (rewrite,) = yield ask("x", rewriter=True)
        (code,) = yield ask(rewrite.text)
        return code.text

    backbone, rewriter, ticks = Recorder("code:"), Recorder("rewrite:"), []
    job = Job(task("a"), rewriting(), budget=2)
    out = Scheduler(backbone, checker, rewriter, lambda: ticks.append(1)).run([job])
    assert out == ["code:rewrite:x"]
    assert job.usage.generations == 2
    assert len(ticks) == 2


def test_results_are_announced_when_a_job_ends():
    order: list[int] = []
    jobs = [Job(task("a"), worker("a", 2), 2), Job(task("b"), worker("b", 1), 1)]
    Scheduler(Recorder(), checker).run(jobs, lambda i, _job: order.append(i))
    assert order == [1, 0]
