"""The scheduler: batching, budgets, order of results."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from promptrl_plugin.backbones.base import Feed
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
    completes = False

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


class Streaming(Recorder):
    """Generates one request at a time, the newest first, and notes in which order it did."""

    streaming = True

    def __init__(self) -> None:
        super().__init__()
        self.served: list[str] = []

    def serve(self, feed: Feed) -> None:
        waiting: list[tuple[int, GenerationRequest]] = []
        while True:
            taken = feed.take(wait=not waiting)
            if not taken and not waiting:
                return
            waiting += taken
            ticket, request = waiting.pop()
            self.served.append(request.prompt.plain)
            feed.deliver(ticket, Completion(request.prompt.plain, 3, 5, "stop"))


def test_a_streaming_backbone_gets_the_next_request_of_a_job_while_others_wait():
    def talker(name: str) -> Generator[Any, Any, list[str]]:
        texts = []
        for i in range(3):
            (completion,) = yield ask(f"{name}{i}")
            texts.append(completion.text)
        return texts

    backbone = Streaming()
    results = Scheduler(backbone, checker).run([Job(task(n), talker(n), 3) for n in "ab"])
    assert backbone.served == ["b0", "b1", "b2", "a0", "a1", "a2"]
    assert results == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert backbone.calls == []


def test_streaming_and_waves_give_the_same_results_and_counts():
    outcomes = []
    for backbone in (Recorder(), Streaming()):
        jobs = [Job(task(f"t{i}"), worker(f"t{i}", 1 + i % 3), budget=3) for i in range(7)]
        results = Scheduler(backbone, checker).run(jobs)
        outcomes.append((results, [j.usage for j in jobs]))
    assert outcomes[0] == outcomes[1]


def test_programs_are_judged_while_the_backbone_writes_others():
    """The checker waits until the backbone has written its second completion; it would wait in vain otherwise."""
    written = threading.Event()

    class Slow(Recorder):
        def generate(self, requests: Sequence[GenerationRequest], on_progress: Any = None) -> list[Completion]:
            out = [Completion(r.prompt.plain, 1, 1, "stop") for r in requests]
            on_progress(0, out[0])
            written.set()
            for i, completion in enumerate(out[1:], start=1):
                on_progress(i, completion)
            return out

    def patient(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        assert written.wait(10), "judged only after the whole batch was written"
        return checker(programs)

    scheduler = Scheduler(Slow(), patient)
    scheduler.run([Job(task(n), worker(n, 1), 1) for n in "ab"])
    assert 0 < scheduler.seconds.judging <= scheduler.seconds.total


def test_a_job_may_begin_with_a_check():
    def checking() -> Generator[Any, Any, str]:
        (verdict,) = yield Check(("p",))
        (completion,) = yield ask("x")
        return f"{verdict.detail} {completion.text}"

    for backbone in (Recorder(), Streaming()):
        assert Scheduler(backbone, checker).run([Job(task("a"), checking(), 1)]) == ["a:p x"]


def test_an_error_of_the_judge_ends_the_run():
    def broken(programs: Sequence[tuple[Task, str]]) -> list[GroupVerdict | None]:
        raise RuntimeError("the judge is gone")

    for backbone in (Recorder(), Streaming()):
        with pytest.raises(RuntimeError, match="the judge is gone"):
            Scheduler(backbone, broken).run([Job(task("a"), worker("a", 2), 2)])


def mixed(name: str, kinds: str, log: list[str]) -> Generator[Any, Any, str]:
    """A job that asks, checks first, rewrites or ends at once, as the letters of `kinds` say."""
    log.append(f"+{name}")
    for n, kind in enumerate(kinds):
        if kind == "c":
            yield Check((name,))
        else:
            yield ask(f"{name}{n}", rewriter=kind == "r")
    log.append(f"-{name}")
    return name


@pytest.mark.parametrize("backbone", [Recorder, Streaming])
@pytest.mark.parametrize("at_once", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("seed", range(6))
def test_so_many_jobs_are_under_way_and_all_end(backbone: type[Recorder], at_once: int | None, seed: int) -> None:
    rng, log = random.Random(seed), list[str]()
    kinds = ["".join(rng.choices("acr", k=rng.randint(0, 4))) for _ in range(12)]
    jobs = [Job(task(f"{i}."), mixed(f"{i}.", k, log), budget=4) for i, k in enumerate(kinds)]
    assert Scheduler(backbone(), checker, Recorder("rewrite:")).run(jobs, at_once=at_once) == [j.task.id for j in jobs]
    assert [x for x in log if x[0] == "+"] == [f"+{i}." for i in range(12)], "started in order"
    under_way = most = 0
    for entry in log:
        under_way += 1 if entry[0] == "+" else -1
        most = max(most, under_way)
    assert most <= (at_once or 12)


def test_the_next_job_starts_while_others_are_under_way():
    backbone = Recorder()
    jobs = [Job(task(n), worker(n, r), budget=r) for n, r in (("a", 3), ("b", 1), ("c", 1), ("d", 1))]
    Scheduler(backbone, checker).run(jobs, at_once=2)
    assert backbone.calls == [2, 2, 2]
