"""Any OpenAI-compatible chat server: vLLM, SGLang, llama-server, Ollama, and services.

EvalPlus opens the assistant's turn (`Prompt.prefix`) where it can. Servers that can do so (`OPEN_TURN`; vLLM's
``continue_final_message``) get the prefix as the beginning of the last turn, and `Prompt.stop`. All others get
what ``evalplus.provider.openai`` sends: the request alone and no stop strings (see `replies`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from promptrl_plugin.backbones import replies
from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.backbones.endpoints import Endpoints, split_urls
from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Completion, GenerationRequest, content_hash

__all__ = ["DEFAULT_URL", "OPEN_TURN", "OpenAIBackbone"]

DEFAULT_URL = "https://api.openai.com/v1"

#: Servers that go on from an unfinished last turn, by what ``GET /models`` calls ``owned_by``.
OPEN_TURN = frozenset({"vllm", "sglang", "llamacpp"})


class OpenAIBackbone:
    """A chat model behind an OpenAI-compatible server.

    Args:
        model: What the server calls it.
        base_url: With its ``/v1``, or several with commas between them: replicas of one server (see `endpoints`).
            None takes ``$OPENAI_BASE_URL``, else OpenAI's own.
        api_key: None takes ``$OPENAI_API_KEY``; local servers need none.
        server: Concurrency (of each replica), time limit and retries.
        open_turn: Whether the server goes on from an unfinished last turn; None asks it what it is.
        start: Command that starts such a server, for the error that there is none (default: vLLM's).
        address: Environment variable that its address can come from, for the same error.

    Raises:
        BackboneError: The server cannot be reached, or refuses the key.
        UnknownNameError: It serves no such model; the ones it serves are named.
        ConfigError: `base_url` is no URL, or replicas serve different models.
    """

    chat = True
    completes = False

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        server: ServerConfig | None = None,
        open_turn: bool | None = None,
        start: str = "",
        address: str = "OPENAI_BASE_URL",
    ) -> None:
        self.name = model
        urls = split_urls(base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL)
        self.url = urls[0]
        self._stop = threading.Event()
        self._endpoints = Endpoints(
            urls,
            model,
            api_key or os.environ.get("OPENAI_API_KEY") or "",
            server or ServerConfig(),
            start=start or f"vllm serve {model}",
            address=address,
        )
        self.open_turn = self._endpoints.owner in OPEN_TURN if open_turn is None else open_turn
        # No server tells which weights it serves: its address (of replicas, the first one's) stands for them.
        self.fingerprint = f"{model}@{urlsplit(self.url).netloc}/{'open' if self.open_turn else 'chat'}"

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, `ServerConfig.concurrency` at a time on each server; see `Backbone.generate`.

        Replies are as reproducible as the server's ``seed`` and numerics (a batch of another size, or a prompt
        that llama-server finds in its own cache, can tip even a greedy one); `CachingBackbone` pins the first.
        When one request fails for good, those in flight are still reported, the rest is dropped.

        Raises:
            BackboneError: The server refused a request, or failed after all retries.
        """
        if self._endpoints.closed:
            raise BackboneError(f"backbone {self.name!r} is closed")
        done: dict[int, Completion] = {}
        failure: BaseException | None = None
        self._stop.clear()
        with ThreadPoolExecutor(self._endpoints.concurrency) as pool:
            waiting = {pool.submit(self._complete, r): i for i, r in enumerate(requests)}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        i = waiting.pop(future)
                        if future.cancelled():
                            continue
                        if error := future.exception():
                            failure = failure or error
                            self._drop(waiting)
                            continue
                        done[i] = future.result()
                        if on_progress is not None:
                            on_progress(i, done[i])
            finally:
                self._drop(waiting)
        if failure is not None:
            raise failure
        return [done[i] for i in range(len(requests))]

    def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        self._stop.set()
        self._endpoints.close()

    def _drop(self, waiting: dict[Future[Completion], int]) -> None:
        """Cancel what has not begun, and let no retry of the others wait."""
        self._stop.set()
        for future in waiting:
            future.cancel()

    def _complete(self, request: GenerationRequest) -> Completion:
        prompt = request.prompt
        body = self._body(request)
        reply = self._endpoints.post(body, self._stop)
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] or ""
            reason = "length" if choice.get("finish_reason") == "length" else "stop"
            usage = reply.get("usage") or {}
        except (KeyError, IndexError, TypeError, AttributeError):
            raise BackboneError(
                f"{self.url} answered something else than a chat completion ({str(reply)[:120]}); check --base-url"
            ) from None
        # Some servers repeat the turn that they go on from.
        text = text.removeprefix(prompt.prefix) if self.open_turn else replies.take_reply(prompt, text)
        sent = "".join(m["content"] for m in body["messages"])
        return Completion(
            text=text,
            prompt_tokens=usage.get("prompt_tokens") or replies.approximate_tokens(sent),
            completion_tokens=usage.get("completion_tokens") or replies.approximate_tokens(text),
            finish_reason=reason,
        )

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        prompt, decoding = request.prompt, request.decoding
        messages = prompt.messages if self.open_turn else replies.without_prefix(prompt)
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
        }
        if not decoding.greedy:
            body["top_p"] = decoding.top_p
            body["seed"] = int(content_hash(request.seed, request.index)[:7], 16)  # servers take 31 bits
        if self.open_turn:
            body["stop"] = list(prompt.stop)
            if prompt.prefix:
                body["messages"].append({"role": "assistant", "content": prompt.prefix})
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body
