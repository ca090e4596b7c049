"""The one interface to a frozen code LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from promptrl_plugin.records import Completion, GenerationRequest

__all__ = ["Backbone", "Feed", "OnProgress", "StreamingBackbone", "as_streaming"]

OnProgress = Callable[[int, Completion], None]
"""Called as each request finishes, with its position in the call and its completion."""


@runtime_checkable
class Backbone(Protocol):
    """A frozen LLM: many prompts in, as many completions out, in order.

    Attributes:
        name: What the user asked for (hub id, alias, path or server model), used in file names.
        fingerprint: Identity for caches and policy bundles: everything about model and numerics that
            changes what it writes (name or weights' hash, revision, dtype), e.g.
            ``"qwen2.5-coder-0.5b-instruct@1d9614638d18/int8"``.
        chat: Whether the chat form of prompts is used (`Prompt.messages`), else `Prompt.plain`.
        completes: Whether it completes `Prompt.plain` where a prompt has no chat form (`Prompt.in_chat`); of interest
            where `chat` is true.
    """

    name: str
    fingerprint: str
    chat: bool
    completes: bool

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request.

        Deterministic: the same request gives the same completion; sampled ones depend on
        ``(seed, index)`` and the prompt only, not on what else is in the batch (up to the numerics of
        batched matrix products).

        Raises:
            BackboneError: The model or server failed for good; the message names the remedy.
        """
        ...

    def close(self) -> None:
        """Free memory, threads and connections; calling it twice is harmless."""
        ...


class Feed(Protocol):
    """Where a streaming backbone gets requests from, and brings completions to, while it runs."""

    def take(self, wait: bool) -> Sequence[tuple[int, GenerationRequest]]:
        """Requests that came up since the last call, each with a ticket.

        Args:
            wait: The backbone has nothing left to do: wait until there is a request. An empty answer then
                means that none will come any more.
        """
        ...

    def deliver(self, ticket: int, completion: Completion) -> None:
        """Bring the completion of a ticket, as soon as it is there; may bring up new requests."""
        ...


@runtime_checkable
class StreamingBackbone(Backbone, Protocol):
    """A backbone that can take requests while it generates, so that no batch runs out at its end.

    Attributes:
        streaming: Whether this one really can (a wrapper can if what it wraps can).
    """

    @property
    def streaming(self) -> bool: ...

    def serve(self, feed: Feed) -> None:
        """Generate until the feed has no more; completions are those of `generate`."""
        ...


def as_streaming(backbone: Backbone) -> StreamingBackbone | None:
    """`backbone` if it can stream, else None."""
    return backbone if isinstance(backbone, StreamingBackbone) and backbone.streaming else None
