"""Replicas of one OpenAI-compatible server: least-loaded routing, and no work lost when one of them dies.

A request goes to the endpoint with the fewest requests in flight. An endpoint whose connection fails is dropped and
the request is sent again at once, to another; nothing of the dead endpoint was counted or cached, since both
happen when a reply is complete. A dropped endpoint is asked again after `RECHECK` seconds, and takes part again once
it serves the same model. The last one is never dropped: it is retried, with growing pauses, as a single server is.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import httpx

from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError

__all__ = ["RECHECK", "Endpoints", "split_urls"]

RECHECK = 30.0  #: seconds until a dropped endpoint is asked again

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_ASK_TIMEOUT = 10.0  # seconds for GET /models
_log = logging.getLogger("promptrl")


def split_urls(base_url: str) -> tuple[str, ...]:
    """The addresses in a comma-separated list, without final slashes and repetitions.

    Raises:
        ConfigError: One is no URL.
    """
    urls = tuple(dict.fromkeys(u.strip().rstrip("/") for u in base_url.split(",") if u.strip()))
    for url in urls or (base_url,):
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} is no server address; give one such as http://localhost:8000/v1")
    return urls


@dataclass(slots=True, eq=False)
class _Endpoint:
    url: str
    client: httpx.Client
    in_flight: int = 0
    dropped: float | None = None  #: when, on the monotonic clock; None: it takes part


@dataclass(frozen=True, slots=True)
class _Served:
    """What ``GET /models`` tells of the model."""

    owner: str
    identity: str = field(default="")  #: of a llama-server, which answers to any name: its model file


class Endpoints:
    """Posts chat completions to whichever endpoint has least to do.

    Args:
        urls: At least one, each with its ``/v1``. All serve the same model.
        model: What the servers call it.
        key: API key, ``""`` for none.
        server: Concurrency (of each endpoint), time limit and retries.
        start: Command that starts such a server, for the error that there is none.
        address: Environment variable that the address can come from, for the same error.

    Attributes:
        owner: What the servers say of themselves (``owned_by``).

    Raises:
        BackboneError: No endpoint can be reached, or one refuses the key.
        UnknownNameError: One serves no such model; the ones it serves are named.
        ConfigError: They do not serve the same.
    """

    def __init__(
        self, urls: Sequence[str], model: str, key: str, server: ServerConfig, *, start: str, address: str
    ) -> None:
        self._model, self._server = model, server
        self._remedy = f"start one (e.g. `{start}`), or give its address with --base-url or {address}"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(server.timeout, connect=10.0)
        limits = httpx.Limits(max_connections=server.concurrency)
        self._all = [_Endpoint(u, httpx.Client(headers=headers, timeout=timeout, limits=limits)) for u in urls]
        self._lock = threading.Lock()
        try:
            self._served = self._connect()
        except BaseException:
            self.close()
            raise
        self.owner = self._served.owner

    @property
    def concurrency(self) -> int:
        """Requests that may be in flight on all endpoints together."""
        return self._server.concurrency * len(self._all)

    @property
    def closed(self) -> bool:
        return self._all[0].client.is_closed

    def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        for endpoint in self._all:
            endpoint.client.close()

    def post(self, body: dict[str, Any], stop: threading.Event) -> Any:
        """One chat completion: the decoded JSON, or the text of a reply that is none.

        Args:
            body: Of the request.
            stop: Set when retries should end now.

        Raises:
            BackboneError: The request was refused, or failed after all retries.
        """
        attempt, problem, endpoint = 0, "", self._all[0]
        while attempt <= self._server.max_retries:
            pause = self._pause(attempt)
            endpoint = self._take()
            try:
                response = endpoint.client.post(f"{endpoint.url}/chat/completions", json=body)
            except httpx.TransportError as e:
                problem = str(e) or type(e).__name__
                if not stop.is_set() and self._drop(endpoint, problem):
                    continue  # another one is there, and nothing was asked of it yet
            else:
                if response.is_success:
                    return _json(response)
                problem = _problem(response)
                if response.status_code not in _RETRIED:
                    raise self._refused(endpoint, response)
                pause = self._pause(attempt, response)
            finally:
                self._give_back(endpoint)
            attempt += 1
            if attempt <= self._server.max_retries and stop.wait(pause):
                break
        others = f" (also down: {', '.join(down)})" if (down := self._down()) else ""
        raise BackboneError(
            f"{endpoint.url} failed {self._server.max_retries + 1} times ({problem}){others}; check the server, "
            "then run the same command again: what is done is kept"
        )

    # --- which endpoint ----------------------------------------------------------------------------

    def _take(self) -> _Endpoint:
        """The endpoint with the fewest requests in flight; now one more."""
        self._revive()
        with self._lock:
            endpoint = min((e for e in self._all if e.dropped is None), key=lambda e: e.in_flight)
            endpoint.in_flight += 1
            return endpoint

    def _give_back(self, endpoint: _Endpoint) -> None:
        with self._lock:
            endpoint.in_flight -= 1

    def _drop(self, endpoint: _Endpoint, problem: str) -> bool:
        """Leave the endpoint out; False where it is the only one that is left."""
        with self._lock:
            others = sum(e.dropped is None for e in self._all if e is not endpoint)
            if not others:
                return False
            known, endpoint.dropped = endpoint.dropped is not None, time.monotonic()
        if not known:
            _log.warning("%s is dropped (%s); its requests go to the other %d", endpoint.url, problem, others)
        return True

    def _revive(self) -> None:
        """Ask one endpoint that was dropped a while ago whether it is back."""
        now = time.monotonic()
        with self._lock:
            due = next((e for e in self._all if e.dropped is not None and now - e.dropped >= RECHECK), None)
            if due is None:
                return
            due.dropped = now  # nobody else asks meanwhile
        try:
            back = self._ask(due) == self._served
        except (httpx.TransportError, BackboneError, UnknownNameError):
            back = False
        if back:
            due.dropped = None
            _log.warning("%s is back", due.url)

    def _down(self) -> list[str]:
        return [e.url for e in self._all if e.dropped is not None]

    # --- what they serve ---------------------------------------------------------------------------

    def _connect(self) -> _Served:
        """Ask every endpoint what it is; finds out early that one is down or has another model."""
        found: dict[str, _Served] = {}
        problems: list[str] = []
        for endpoint in self._all:
            try:
                found[endpoint.url] = self._ask(endpoint)
            except httpx.TransportError as e:
                endpoint.dropped = time.monotonic()
                problems.append(f"{endpoint.url} ({e})")
        if not found:
            raise BackboneError(f"no server at {', '.join(problems)}; {self._remedy}")
        (first, served), *rest = found.items()
        for url, other in rest:
            if other != served:
                raise ConfigError(
                    f"{first} and {url} do not serve the same ({served.owner or 'unknown'} {served.identity}".rstrip()
                    + f", {other.owner or 'unknown'} {other.identity}".rstrip()
                    + "); give --base-url only replicas of one model"
                )
        for problem in problems:
            _log.warning("no server at %s; the other %d do its work", problem, len(found))
        return served

    def _ask(self, endpoint: _Endpoint) -> _Served:
        response = endpoint.client.get(f"{endpoint.url}/models", timeout=_ASK_TIMEOUT)
        if response.status_code in {401, 403}:
            raise self._refused(endpoint, response)
        served = _models(response)
        if "llamacpp" in served.values():  # llama-server has one model, and ignores the name
            return _Served("llamacpp", ", ".join(sorted(PurePath(name).name for name in served)))
        for name in (self._model, f"{self._model}:latest"):  # Ollama's tag of a name without one
            if name in served:
                return _Served(served[name])
        if not served:
            return _Served("")
        raise UnknownNameError(f"model at {endpoint.url}", self._model, served)

    def _pause(self, attempt: int, response: httpx.Response | None = None) -> float:
        """Seconds before the next attempt: exponential with jitter, or what the server asks for."""
        pause = self._server.backoff * 2.0**attempt * random.uniform(0.5, 1.0)
        if response is not None:
            with contextlib.suppress(ValueError):  # an HTTP date: the exponential pause will do
                pause = max(pause, float(response.headers.get("retry-after", 0)))
        return min(pause, self._server.max_backoff)

    def _refused(self, endpoint: _Endpoint, response: httpx.Response) -> BackboneError:
        remedy = {
            401: "set OPENAI_API_KEY",
            403: "set OPENAI_API_KEY",
            404: f"check --base-url (it ends in /v1) and the model's name {self._model!r}",
        }.get(response.status_code, "change the request, or the server's settings")
        return BackboneError(f"{endpoint.url} refused the request ({_problem(response)}); {remedy}")


def _models(response: httpx.Response) -> dict[str, str]:
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
