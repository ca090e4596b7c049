"""Any OpenAI-compatible chat server: vLLM, SGLang, llama-server, Ollama, and services.

EvalPlus opens the assistant's turn (`Prompt.prefix`) where it can. Servers that can do so (`OPEN_TURN`; vLLM's
``continue_final_message``) get the prefix as the beginning of the last turn, and `Prompt.stop`. All others get
what ``evalplus.provider.openai`` sends: the request alone and no stop strings (see `replies`).
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import httpx

from promptrl_plugin.backbones import replies
from promptrl_plugin.backbones.base import OnProgress
from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError
from promptrl_plugin.records import Completion, GenerationRequest, content_hash

__all__ = ["DEFAULT_URL", "OPEN_TURN", "OpenAIBackbone"]

DEFAULT_URL = "https://api.openai.com/v1"

#: Servers that go on from an unfinished last turn, by what ``GET /models`` calls ``owned_by``.
OPEN_TURN = frozenset({"vllm", "sglang", "llamacpp"})

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


class OpenAIBackbone:
    """A chat model behind an OpenAI-compatible server.

    Args:
        model: What the server calls it.
        base_url: With its ``/v1``; None takes ``$OPENAI_BASE_URL``, else OpenAI's own.
        api_key: None takes ``$OPENAI_API_KEY``; local servers need none.
        server: Concurrency, time limit and retries.
        open_turn: Whether the server goes on from an unfinished last turn; None asks it what it is.
        start: Command that starts such a server, for the error that there is none (default: vLLM's).
        address: Environment variable that its address can come from, for the same error.

    Raises:
        BackboneError: The server cannot be reached, or refuses the key.
        UnknownNameError: It serves no such model; the ones it serves are named.
        ConfigError: `base_url` is no URL.
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
        self.url = (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
        if urlsplit(self.url).scheme not in {"http", "https"} or not urlsplit(self.url).netloc:
            raise ConfigError(f"{self.url!r} is no server address; give one such as http://localhost:8000/v1")
        self._server = server or ServerConfig()
        key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._server.timeout, connect=10.0),
            limits=httpx.Limits(max_connections=self._server.concurrency),
        )
        self._stop = threading.Event()
        try:
            owner = self._owner(start or f"vllm serve {model}", address)
        except BaseException:
            self._client.close()
            raise
        self.open_turn = owner in OPEN_TURN if open_turn is None else open_turn
        # The server does not tell which weights it serves: its address stands for them.
        self.fingerprint = f"{model}@{urlsplit(self.url).netloc}/{'open' if self.open_turn else 'chat'}"

    def generate(
        self, requests: Sequence[GenerationRequest], on_progress: OnProgress | None = None
    ) -> list[Completion]:
        """Complete every request, `ServerConfig.concurrency` at a time; see `Backbone.generate`.

        Replies are as reproducible as the server's ``seed`` and numerics (a batch of another size, or a prompt
        that llama-server finds in its own cache, can tip even a greedy one); `CachingBackbone` pins the first.
        When one request fails for good, those in flight are still reported, the rest is dropped.

        Raises:
            BackboneError: The server refused a request, or failed after all retries.
        """
        if self._client.is_closed:
            raise BackboneError(f"backbone {self.name!r} is closed")
        done: dict[int, Completion] = {}
        failure: BaseException | None = None
        self._stop.clear()
        with ThreadPoolExecutor(self._server.concurrency) as pool:
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
        self._client.close()

    def _drop(self, waiting: dict[Future[Completion], int]) -> None:
        """Cancel what has not begun, and let no retry of the others wait."""
        self._stop.set()
        for future in waiting:
            future.cancel()

    def _complete(self, request: GenerationRequest) -> Completion:
        prompt = request.prompt
        body = self._body(request)
        reply = self._post(body)
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

    def _post(self, body: dict[str, Any]) -> Any:
        """One chat completion, with retries that end."""
        problem = ""
        for attempt in range(self._server.max_retries + 1):
            pause = self._pause(attempt)
            try:
                response = self._client.post(f"{self.url}/chat/completions", json=body)
            except httpx.TransportError as e:
                problem = str(e) or type(e).__name__
            else:
                if response.is_success:
                    return _json(response)
                problem = _problem(response)
                if response.status_code not in _RETRIED:
                    raise self._refused(response)
                pause = self._pause(attempt, response)
            if attempt < self._server.max_retries and self._stop.wait(pause):
                break
        raise BackboneError(
            f"{self.url} failed {self._server.max_retries + 1} times ({problem}); check the server, "
            "then run the same command again: what is done is kept"
        )

    def _pause(self, attempt: int, response: httpx.Response | None = None) -> float:
        """Seconds before the next attempt: exponential with jitter, or what the server asks for."""
        pause = self._server.backoff * 2.0**attempt * random.uniform(0.5, 1.0)
        if response is not None:
            with contextlib.suppress(ValueError):  # an HTTP date: the exponential pause will do
                pause = max(pause, float(response.headers.get("retry-after", 0)))
        return min(pause, self._server.max_backoff)

    def _owner(self, start: str, address: str) -> str:
        """Ask the server what it is; also finds out early that it is down or does not have the model."""
        try:
            response = self._client.get(f"{self.url}/models", timeout=10.0)
        except httpx.TransportError as e:
            raise BackboneError(
                f"no server at {self.url} ({e}); start one (e.g. `{start}`), or give its address with --base-url or "
                f"{address}"
            ) from None
        if response.status_code in {401, 403}:
            raise self._refused(response)
        served = _served(response)
        for name in (self.name, f"{self.name}:latest"):  # Ollama's tag of a name without one
            if name in served:
                return served[name]
        if not served or "llamacpp" in served.values():  # llama-server has one model, and ignores the name
            return "".join(served.values())
        raise UnknownNameError(f"model at {self.url}", self.name, served)

    def _refused(self, response: httpx.Response) -> BackboneError:
        remedy = {
            401: "set OPENAI_API_KEY",
            403: "set OPENAI_API_KEY",
            404: f"check --base-url (it ends in /v1) and the model's name {self.name!r}",
        }.get(response.status_code, "change the request, or the server's settings")
        return BackboneError(f"{self.url} refused the request ({_problem(response)}); {remedy}")


def _served(response: httpx.Response) -> dict[str, str]:
    """Models of ``GET /models`` with their ``owned_by``; none where the server has no such list."""
    if not response.is_success:
        return {}
    try:
        return {str(m["id"]): str(m.get("owned_by", "")) for m in response.json()["data"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text


def _problem(response: httpx.Response) -> str:
    """Status and the server's own words, on one line."""
    data = _json(response)
    error = data.get("error", data) if isinstance(data, dict) else data
    text = error.get("message", error) if isinstance(error, dict) else error
    return f"HTTP {response.status_code}: {' '.join(str(text).split())[:200]}"
