"""A backbone that remembers: answers from the cache, and asks the real one only for what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptrl_plugin.backbones.base import Backbone, Feed, OnProgress, as_streaming
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, GenerationRequest
from promptrl_plugin.storage.cache import Cache, completion_key

__all__ = ["CacheStats", "CachingBackbone", "RecordingBackbone"]


@dataclass(slots=True)
class CacheStats:
    """Requests answered so far.

    Attributes:
        hits: From the cache, or from an identical request of the same call.
        misses: By the inner backbone: generations that were really made.
    """

    hits: int = 0
    misses: int = 0


class CachingBackbone:
    """`Backbone` over another one and a `Cache`.

    Each completion is on file as soon as the inner backbone reports it, so a killed run loses at most what
    was being generated.

    Args:
        inner: The backbone that generates; its name, fingerprint and form of prompts are taken over.
        cache: Where completions are kept. It is not closed with the backbone.
        allow_new: False makes a request that is not in the cache an error, before anything is generated:
            "this run makes no new generation" as a check.
    """

    def __init__(self, inner: Backbone, cache: Cache, *, allow_new: bool = True) -> None:
        self.inner = inner
        self.cache = cache
        self.allow_new = allow_new
        self.stats = CacheStats()
        self.name = inner.name
        self.fingerprint = inner.fingerprint
        self.chat = inner.chat
        self.completes = inner.completes

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, identical ones once; see `Backbone.generate`.

        `on_progress` is called for every position, cached ones first.

        Raises:
            BackboneError: The inner backbone failed, or `allow_new` is off and something is not cached.
            CacheError: The cache file failed.
        """
        keys = [self.key(r) for r in requests]
        positions: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            positions.setdefault(key, []).append(i)
        known = self.cache.get_completions(positions)
        missing = [k for k in positions if k not in known]
        self.stats.hits += len(keys) - len(missing)

        def report(key: str) -> None:
            if on_progress is not None:
                for i in positions[key]:
                    on_progress(i, known[key])

        def store(i: int, completion: Completion) -> None:
            key = missing[i]
            if key not in known:
                self.cache.put_completion(key, completion)
                self.stats.misses += 1
                known[key] = completion
                report(key)

        for key in list(known):
            report(key)
        if missing:
            self._refuse_new(len(missing), len(keys))
            for i, completion in enumerate(self.inner.generate([requests[positions[k][0]] for k in missing], store)):
                store(i, completion)  # for a backbone that does not report every completion
        return [known[key] for key in keys]

    @property
    def streaming(self) -> bool:
        """Whether the inner backbone can take requests while it generates."""
        return as_streaming(self.inner) is not None

    def serve(self, feed: Feed) -> None:
        """Answer from the cache, and stream what is new; see `StreamingBackbone.serve`."""
        inner = as_streaming(self.inner)
        if inner is None:
            raise BackboneError(f"backbone {self.name!r} cannot stream")
        inner.serve(_CachedFeed(self, feed))

    def _refuse_new(self, missing: int, asked: int) -> None:
        if not self.allow_new:
            raise BackboneError(
                f"{missing} of {asked} generations by {self.name} are not in the cache {self.cache.path}, "
                "and new ones are switched off; allow them, or point PROMPTRL_CACHE at the cache that has them"
            )

    def _note(self, key: str, completion: Completion) -> None:
        """Called with every completion that is handed out."""

    def key(self, request: GenerationRequest) -> str:
        """Key of `request` in the cache."""
        return completion_key(self.fingerprint, self.chat, request)

    def close(self) -> None:
        """Close the inner backbone; the cache stays open."""
        self.inner.close()


class _CachedFeed:
    """The feed of the inner backbone: what the cache has not, each request once."""

    def __init__(self, outer: CachingBackbone, feed: Feed) -> None:
        self._outer, self._feed = outer, feed
        self._flying: dict[str, list[int]] = {}  # tickets by key, the first is the inner backbone's
        self._keys: dict[int, str] = {}

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        while taken := self._feed.take(wait):
            if new := self._unknown(taken):
                return new
        return []

    def deliver(self, ticket: int, completion: Completion) -> None:
        outer, key = self._outer, self._keys.pop(ticket)
        outer.cache.put_completion(key, completion)
        outer.stats.misses += 1
        for waiting in self._flying.pop(key):
            self._hand_out(waiting, key, completion)

    def _unknown(self, taken: Sequence[tuple[int, GenerationRequest]]) -> list[tuple[int, GenerationRequest]]:
        outer = self._outer
        keys = [outer.key(request) for _, request in taken]
        known = outer.cache.get_completions(keys)
        new: list[tuple[int, GenerationRequest]] = []
        for key, (ticket, request) in zip(keys, taken, strict=True):
            if key in known:
                outer.stats.hits += 1
                self._hand_out(ticket, key, known[key])
            elif key in self._flying:
                outer.stats.hits += 1
                self._flying[key].append(ticket)
            else:
                outer._refuse_new(1, len(taken))
                self._flying[key], self._keys[ticket] = [ticket], key
                new.append((ticket, request))
        return new

    def _hand_out(self, ticket: int, key: str, completion: Completion) -> None:
        self._outer._note(key, completion)
        self._feed.deliver(ticket, completion)


class RecordingBackbone(CachingBackbone):
    """A caching backbone that knows what this run has asked for, so that training can replay it.

    What other runs left in the cache does not count: a run is a function of its seed, whatever is cached.
    """

    def __init__(self, inner: Backbone, cache: Cache) -> None:
        super().__init__(inner, cache)
        self._recorded: dict[str, Completion] = {}

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """As `CachingBackbone.generate`, and remember the answers."""
        completions = super().generate(requests, on_progress)
        for request, completion in zip(requests, completions, strict=True):
            self._note(self.key(request), completion)
        return completions

    def _note(self, key: str, completion: Completion) -> None:
        self._recorded[key] = completion

    def recall(self, requests: Sequence[GenerationRequest]) -> list[Completion] | None:
        """The completions, if this run has asked for every one of them before; else None."""
        completions = [self._recorded.get(self.key(r)) for r in requests]
        known = [c for c in completions if c is not None]
        return known if len(known) == len(completions) else None

    @property
    def num_recorded(self) -> int:
        """Distinct generations of this run so far."""
        return len(self._recorded)

    @property
    def recorded(self) -> tuple[str, ...]:
        """Keys of all that was asked for, sorted."""
        return tuple(sorted(self._recorded))

    def restore(self, recorded: Sequence[str]) -> None:
        """Go on from `recorded` of an interrupted run.

        Raises:
            BackboneError: The cache has lost some of those completions.
        """
        found = self.cache.get_completions(recorded)
        if missing := len(set(recorded)) - len(found):
            raise BackboneError(
                f"{missing} generations of the interrupted run are no longer in the cache {self.cache.path}; "
                "point PROMPTRL_CACHE at the cache that has them, or train anew"
            )
        self._recorded.update(found)
