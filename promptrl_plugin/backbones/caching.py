"""A backbone that remembers: answers from the cache, and asks the real one only for what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptrl_plugin.backbones.base import Backbone, OnProgress
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, GenerationRequest
from promptrl_plugin.storage.cache import Cache, completion_key

__all__ = ["CacheStats", "CachingBackbone"]


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

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, identical ones once; see `Backbone.generate`.

        `on_progress` is called for every position, cached ones first.

        Raises:
            BackboneError: The inner backbone failed, or `allow_new` is off and something is not cached.
            CacheError: The cache file failed.
        """
        keys = [completion_key(self.fingerprint, self.chat, r) for r in requests]
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
            if not self.allow_new:
                raise BackboneError(
                    f"{len(missing)} of {len(keys)} generations by {self.name} are not in the cache {self.cache.path}, "
                    "and new ones are switched off; allow them, or point PROMPTRL_CACHE at the cache that has them"
                )
            for i, completion in enumerate(self.inner.generate([requests[positions[k][0]] for k in missing], store)):
                store(i, completion)  # for a backbone that does not report every completion
        return [known[key] for key in keys]

    def close(self) -> None:
        """Close the inner backbone; the cache stays open."""
        self.inner.close()
