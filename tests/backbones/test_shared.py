"""Several threads generate with one model as each would alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from tiny_models import save_causal

from promptrl_plugin.backbones.base import as_streaming
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.backbones.shared import SharedBackbone
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Prompt

T = TypeVar("T")


def plain(text: str, new: int = 12, temperature: float = 0.0, index: int = 0) -> GenerationRequest:
    return GenerationRequest(Prompt((), "", text), Decoding(temperature, 0.9, new), index=index)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result(timeout=60) for f in [pool.submit(call) for call in calls]]


def test_clients_in_threads_get_what_the_model_writes_alone(tmp_path: Path) -> None:
    folder = save_causal(tmp_path, chat=False)
    requests = [[plain(f"def f{i}_{n}(", 3 + 5 * i, 0.7 * (n % 2), n) for n in range(6)] for i in range(4)]
    alone = [TransformersBackbone(folder, dtype="float32").generate(asked) for asked in requests]
    shared = SharedBackbone(TransformersBackbone(folder, dtype="float32", rows=5))
    clients = [shared.client() for _ in requests]
    assert all(as_streaming(client) is not None for client in clients)
    assert {c.fingerprint for c in clients} == {shared.inner.fingerprint}
    told: list[tuple[int, Completion]] = []
    calls = [
        lambda c=c, r=r: c.generate(r, lambda i, done: told.append((i, done)))
        for c, r in zip(clients, requests, strict=True)
    ]
    assert at_once(calls) == alone
    assert len(told) == sum(map(len, requests))
    clients[0].close()
    assert clients[1].generate(requests[0]) == alone[0], "one that closes leaves the others theirs"
    shared.close()
    with pytest.raises(BackboneError, match="closed"):
        shared.inner.generate(requests[0])


class Answering:
    """A feed that asks on and on: each completion brings up the next request, a verdict's time later."""

    def __init__(self, count: int) -> None:
        self.left, self.ready, self.done = count, [plain(f"x{count} = ")], []  # type: ignore[var-annotated]

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        taken, self.ready = list(enumerate(self.ready)), []
        return taken

    def deliver(self, ticket: int, completion: Completion) -> None:
        self.done.append(completion.text)
        self.left -= 1
        if self.left:
            self.ready.append(plain(f"{completion.text}{self.left}"))


def test_a_feed_may_bring_up_requests_until_it_has_no_more(tmp_path: Path) -> None:
    backbone = TransformersBackbone(save_causal(tmp_path, chat=False), dtype="float32")
    alone, together = ([Answering(n) for n in (1, 4, 9)] for _ in range(2))
    for feed in alone:
        backbone.serve(feed)
    shared = SharedBackbone(backbone)
    at_once([lambda feed=feed: shared.client().serve(feed) for feed in together])  # type: ignore[attr-defined]
    assert [feed.done for feed in together] == [feed.done for feed in alone]
    assert [feed.left for feed in together] == [0, 0, 0]
    shared.close()


class Gate(ScriptedBackbone):
    """Holds its first call until it is opened, so that more is asked for meanwhile."""

    def __init__(self) -> None:
        super().__init__(lambda request: request.prompt.plain.upper(), chat=False, completes=True)
        self.entered, self.opened = threading.Event(), threading.Event()

    def generate(self, requests, on_progress=None):  # type: ignore[no-untyped-def]
        self.entered.set()
        assert self.opened.wait(30)
        return super().generate(requests, on_progress)


def test_a_request_of_several_is_generated_once_and_what_waits_goes_in_one_batch() -> None:
    gate = Gate()
    shared = SharedBackbone(gate)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shared.client().generate, [plain("a")])
        assert gate.entered.wait(30)
        others = [pool.submit(shared.client().generate, [plain(p) for p in asked]) for asked in ("ab", "cba")]
        while len(shared._waiting.get(shared._keys[0], [])) < 3 or len(shared._waiting) < 3:
            threading.Event().wait(0.01)
        gate.opened.set()
        assert [c.text for c in first.result(30)] == ["A"]
        assert [[c.text for c in f.result(30)] for f in others] == [["A", "B"], ["C", "B", "A"]]
    assert [sorted(r.prompt.plain for r in call) for call in gate.calls] == [["a"], ["b", "c"]]
    shared.close()


def test_what_ends_the_generating_reaches_everyone() -> None:
    def fail(_request: GenerationRequest) -> str:
        raise BackboneError("the model is gone; bring it back")

    shared = SharedBackbone(ScriptedBackbone(fail, chat=False, completes=True))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(shared.client().generate, [plain(p)]) for p in "ab"]
        for future in waiting:
            with pytest.raises(BackboneError, match="bring it back"):
                future.result(30)
    with pytest.raises(BackboneError, match="bring it back"):
        shared.client().generate([plain("c")])
    shared.close()


def test_stopping_lets_go_who_waits() -> None:
    gate = Gate()
    shared = SharedBackbone(gate)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared.client().generate, [plain("a")])
        assert gate.entered.wait(30)
        shared.stop(BackboneError("stopped; go on with --resume"))
        with pytest.raises(BackboneError, match="--resume"):
            waiting.result(30)
    cached = Answering(3)
    cached.ready = []  # as of a run that finds all it asks for in a cache
    with pytest.raises(BackboneError, match="--resume"):
        shared.client().serve(cached)  # type: ignore[attr-defined]
    gate.opened.set()
    shared.close()


def test_one_that_nobody_asked_closes_its_model() -> None:
    closed = []

    class Closing(ScriptedBackbone):
        def close(self) -> None:
            closed.append(self.name)

    SharedBackbone(Closing({"": "x"})).close()
    assert closed == ["scripted"]
