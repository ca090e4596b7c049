from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from promptrl_plugin.backbones.base import Backbone, Feed, OnProgress, as_streaming
from promptrl_plugin.backbones.caching import CachingBackbone, RecordingBackbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, Decoding, GenerationRequest, Message, Prompt
from promptrl_plugin.storage.cache import Cache


def request(text: str, temperature: float = 0.0, index: int = 0) -> GenerationRequest:
    return GenerationRequest(Prompt((Message("user", text),), "", text), Decoding(temperature), index=index)


def echo(r: GenerationRequest) -> str:
    return f"{r.prompt.plain} {r.index}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "c.sqlite")


def test_is_a_backbone(cache: Cache) -> None:
    assert isinstance(CachingBackbone(ScriptedBackbone(echo), cache), Backbone)


def test_identical_requests_are_generated_once_and_answered_in_order(cache: Cache) -> None:
    inner = ScriptedBackbone(echo)
    backbone = CachingBackbone(inner, cache)
    requests = [request("a"), request("b"), request("a", index=7), request("a", 0.8), request("a", 0.8, 1)]
    texts = [c.text for c in backbone.generate(requests)]
    assert texts == ["a 0", "b 0", "a 0", "a 0", "a 1"]  # greedy: the index is without effect
    assert len(inner.requests) == 4
    assert (backbone.stats.hits, backbone.stats.misses) == (1, 4)


def test_a_second_backbone_on_the_same_file_generates_nothing(cache: Cache) -> None:
    requests = [request("a"), request("b", 0.8, 3)]
    first = CachingBackbone(ScriptedBackbone(echo), cache).generate(requests)
    inner = ScriptedBackbone({"": "never asked"})
    again = CachingBackbone(inner, Cache(cache.path), allow_new=False)
    assert again.generate(requests) == first
    assert inner.calls == []
    assert (again.stats.hits, again.stats.misses) == (2, 0)


def test_another_fingerprint_or_form_shares_nothing(cache: Cache) -> None:
    CachingBackbone(ScriptedBackbone({"": "one"}), cache).generate([request("a")])
    for other in (ScriptedBackbone({"": "two"}, fingerprint="f"), ScriptedBackbone({"": "two"}, chat=False)):
        assert CachingBackbone(other, cache).generate([request("a")])[0].text == "two"


def test_progress_is_reported_for_every_position_once(cache: Cache) -> None:
    backbone = CachingBackbone(ScriptedBackbone(echo), cache)
    backbone.generate([request("a")])
    seen: list[tuple[int, str]] = []
    backbone.generate([request("b"), request("a"), request("b")], lambda i, c: seen.append((i, c.text)))
    assert seen == [(1, "a 0"), (0, "b 0"), (2, "b 0")]


def test_what_finished_before_a_failure_is_kept(cache: Cache) -> None:
    class Dies(ScriptedBackbone):
        def generate(
            self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
        ) -> list[Completion]:
            super().generate(requests[:2], on_progress)
            raise BackboneError("server gone")

    with pytest.raises(BackboneError, match="server gone"):
        CachingBackbone(Dies(echo), cache).generate([request(t) for t in "abcd"])
    inner = ScriptedBackbone(echo)
    CachingBackbone(inner, cache).generate([request(t) for t in "abcd"])
    assert [r.prompt.plain for r in inner.requests] == ["c", "d"]


def test_a_backbone_that_reports_nothing_is_cached_all_the_same(cache: Cache) -> None:
    class Silent(ScriptedBackbone):
        def generate(
            self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
        ) -> list[Completion]:
            return super().generate(requests)

    seen: list[int] = []
    CachingBackbone(Silent(echo), cache).generate([request("a"), request("b")], lambda i, c: seen.append(i))
    assert seen == [0, 1]
    assert cache.counts()["completions"] == 2


def test_new_generations_can_be_switched_off(cache: Cache) -> None:
    inner = ScriptedBackbone(echo)
    CachingBackbone(inner, cache).generate([request("a")])
    with pytest.raises(BackboneError, match="1 of 2 generations by scripted are not in the cache"):
        CachingBackbone(inner, cache, allow_new=False).generate([request("a"), request("b")])
    assert len(inner.requests) == 1


def test_nothing_asked_is_nothing_done(cache: Cache) -> None:
    inner = ScriptedBackbone(echo)
    assert CachingBackbone(inner, cache).generate([]) == []
    assert inner.calls == []


class Streaming(ScriptedBackbone):
    """Serves one request at a time."""

    streaming = True

    def serve(self, feed: Feed) -> None:
        waiting: list[tuple[int, GenerationRequest]] = []
        while taken := feed.take(wait=not waiting) or waiting:
            if taken is not waiting:
                waiting += taken
            ticket, request = waiting.pop(0)
            feed.deliver(ticket, self.generate([request])[0])


class Batches:
    """A feed that hands out one batch a call of `take`."""

    def __init__(self, *batches: list[GenerationRequest]) -> None:
        self.batches = list(batches)
        self.answers: dict[int, str] = {}
        self.given = 0

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        if not self.batches:
            return []
        batch = self.batches.pop(0)
        numbered = list(enumerate(batch, start=self.given))
        self.given += len(batch)
        return numbered

    def deliver(self, ticket: int, completion: Completion) -> None:
        assert ticket not in self.answers
        self.answers[ticket] = completion.text


def test_streamed_requests_are_answered_from_the_cache_or_generated_once(cache: Cache) -> None:
    cache_first = CachingBackbone(ScriptedBackbone(echo), cache)
    cache_first.generate([request("known")])
    inner = Streaming(echo)
    backbone = RecordingBackbone(inner, cache)
    feed = Batches([request("known")], [request("a"), request("b"), request("a")], [request("a", 0.8, 1)])
    assert as_streaming(backbone) is backbone
    backbone.serve(feed)
    assert feed.answers == {0: "known 0", 1: "a 0", 2: "b 0", 3: "a 0", 4: "a 1"}
    assert [r.prompt.plain for r in inner.requests] == ["a", "b", "a"]
    assert (backbone.stats.hits, backbone.stats.misses) == (2, 3)
    assert backbone.num_recorded == 4
    again = CachingBackbone(Streaming({"": "never asked"}), cache, allow_new=False)
    feed = Batches([request("a"), request("b")])
    again.serve(feed)
    assert feed.answers == {0: "a 0", 1: "b 0"}
    with pytest.raises(BackboneError, match="1 of 2 generations"):
        again.serve(Batches([request("a"), request("new")]))


def test_it_streams_only_over_a_backbone_that_does(cache: Cache) -> None:
    backbone = CachingBackbone(ScriptedBackbone(echo), cache)
    assert as_streaming(backbone) is None
    with pytest.raises(BackboneError, match="cannot stream"):
        backbone.serve(Batches([request("a")]))
