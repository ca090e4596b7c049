"""One model for several runs in threads of one process: what they ask for is generated together.

A run waits for its slowest programs at every step; of several, one goes on while another waits, and the model is in
memory once.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from promptrl_plugin.backbones.base import Backbone, Feed, OnProgress, as_streaming
from promptrl_plugin.records import Completion, GenerationRequest
from promptrl_plugin.storage.cache import completion_key

__all__ = ["SharedBackbone"]

_POLL = 0.05
"""Seconds after which a run that waits for completions looks whether its judge has brought up new requests."""

_Answers = queue.SimpleQueue[tuple[int, Completion] | BaseException]


class SharedBackbone:
    """Generates in a thread of its own for any number of clients, a request of several of them once.

    Args:
        inner: What generates. One that streams takes requests as they come, another all that are there at once.
        on_start: Called in the generating thread before it generates.
    """

    def __init__(self, inner: Backbone, on_start: Callable[[], object] = lambda: None) -> None:
        self.inner = inner
        self._on_start = on_start
        self._changed = threading.Condition()
        self._requests: deque[tuple[int, GenerationRequest]] = deque()
        self._keys: list[str] = []  # of each ticket
        self._waiting: dict[str, list[tuple[_Answers, int]]] = {}  # who waits for a key, with their own ticket
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def client(self) -> Backbone:
        """A streaming backbone for one thread; closing it leaves the others theirs."""
        return _Client(self)

    def stop(self, error: BaseException) -> None:
        """Generate no more; everyone who waits or asks gets `error`. The first call counts."""
        with self._changed:
            if self._error is None:
                self._error = error
                for answers in {a for waiting in self._waiting.values() for a, _ in waiting}:
                    answers.put(error)
            self._changed.notify_all()

    def check(self) -> None:
        """Make sure that generating goes on; a run that finds all it asks for in a cache learns of its end only here.

        Raises:
            BaseException: What ended the generating, if it has ended.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread once nothing is asked for any more, and close the inner backbone."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.inner.close()

    def ask(self, asked: Sequence[tuple[int, GenerationRequest]], answers: _Answers) -> None:
        """Have the completions of these tickets put into `answers`.

        Raises:
            BaseException: What ended the generating, if it has ended.
        """
        with self._changed:
            self.check()
            for ticket, request in asked:
                key = completion_key(self.inner.fingerprint, self.inner.chat, request)
                if key not in self._waiting:
                    self._requests.append((len(self._keys), request))
                    self._keys.append(key)
                self._waiting.setdefault(key, []).append((answers, ticket))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"backbone {self.inner.name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    # --- the generating thread -------------------------------------------------------------------

    def _work(self) -> None:
        streaming = as_streaming(self.inner)
        try:
            self._on_start()
            if streaming is not None:
                streaming.serve(self)
            else:
                while batch := self.take(wait=True):
                    self._generate(batch)
        except BaseException as e:
            self.stop(e)

    def _generate(self, batch: Sequence[tuple[int, GenerationRequest]]) -> None:
        reported: set[int] = set()

        def on_progress(position: int, completion: Completion) -> None:
            reported.add(position)
            self.deliver(batch[position][0], completion)

        for position, completion in enumerate(self.inner.generate([r for _, r in batch], on_progress)):
            if position not in reported:
                on_progress(position, completion)

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        """See `Feed.take`."""
        with self._changed:
            self._changed.wait_for(lambda: not wait or self._requests or self._closed or self._error)
            if self._error is not None:
                raise self._error
            taken = list(self._requests)
            self._requests.clear()
            return taken

    def deliver(self, ticket: int, completion: Completion) -> None:
        """See `Feed.deliver`."""
        with self._changed:
            for answers, theirs in self._waiting.pop(self._keys[ticket]):
                answers.put((theirs, completion))


class _Client:
    """What one thread generates with; a `StreamingBackbone`."""

    streaming = True

    def __init__(self, shared: SharedBackbone) -> None:
        self._shared = shared
        self.name, self.fingerprint = shared.inner.name, shared.inner.fingerprint
        self.chat, self.completes = shared.inner.chat, shared.inner.completes

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request; see `Backbone.generate`."""
        batch = _Batch(requests, on_progress)
        self.serve(batch)
        return [batch.completions[i] for i in range(len(requests))]

    def serve(self, feed: Feed) -> None:
        """Generate until the feed has no more; see `StreamingBackbone.serve`."""
        self._shared.check()
        answers: _Answers = queue.SimpleQueue()
        missing = 0
        while True:
            if taken := feed.take(wait=not missing):
                self._shared.ask(taken, answers)
                missing += len(taken)
            if not missing:
                return
            try:
                answer = answers.get(timeout=_POLL)
                while True:
                    if isinstance(answer, BaseException):
                        raise answer
                    missing -= 1
                    feed.deliver(*answer)
                    answer = answers.get_nowait()
            except queue.Empty:
                continue

    def close(self) -> None:
        """Nothing: the model is closed with its `SharedBackbone`."""


class _Batch:
    """A feed of requests that are all known."""

    def __init__(self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None) -> None:
        self._left, self._on_progress = list(enumerate(requests)), on_progress
        self.completions: dict[int, Completion] = {}

    def take(self, wait: bool) -> list[tuple[int, GenerationRequest]]:
        taken, self._left = self._left, []
        return taken

    def deliver(self, ticket: int, completion: Completion) -> None:
        self.completions[ticket] = completion
        if self._on_progress is not None:
            self._on_progress(ticket, completion)
