"""Replicas of a server: routing, and what happens when one of them dies."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, Server, said

from promptrl_plugin.backbones import endpoints
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.openai import OpenAIBackbone
from promptrl_plugin.backbones.registry import load_backbone
from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt
from promptrl_plugin.storage.cache import Cache

QUICK = ServerConfig(concurrency=4, timeout=5.0, max_retries=2, backoff=0.01, max_backoff=0.05)
DEAD = "http://127.0.0.1:9/v1"


class Mortal(Server):
    """A server that can be killed: connections in flight end without a reply and no new one is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.open_sockets: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Resets are what these tests are about."""

    def die(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.open_sockets:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


def numbered(n: int) -> list[GenerationRequest]:
    return [GenerationRequest(Prompt((Message("user", str(i)),), "", ""), Decoding(0.0, 1.0, 9)) for i in range(n)]


def number(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def slow(seconds: float) -> Any:
    def answer(body: dict[str, Any]) -> Reply:
        time.sleep(seconds)
        return said("reply " + number(body))

    return answer


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mortal]]:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    started = [Mortal() for _ in range(3)]
    for server in started:
        server.answer = slow(0.02)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


def connect(*servers: Server, **options: Any) -> OpenAIBackbone:
    return OpenAIBackbone("m", ",".join(s.url for s in servers), server=options.pop("config", QUICK), **options)


def test_work_is_shared_and_comes_back_in_order(servers: list[Mortal]) -> None:
    completions = connect(*servers).generate(numbered(48))
    assert [c.text for c in completions] == [f"reply {i}" for i in range(48)]
    assert sum(len(s.bodies) for s in servers) == 48
    assert all(8 <= len(s.bodies) <= 24 for s in servers)
    assert max(s.most_running for s in servers) <= 2 * QUICK.concurrency


def test_a_slow_endpoint_gets_less(servers: list[Mortal]) -> None:
    quick, other, slowly = servers
    slowly.answer = slow(0.4)
    connect(*servers).generate(numbered(60))
    assert len(slowly.bodies) < min(len(quick.bodies), len(other.bodies)) / 2


def test_one_that_is_killed_loses_no_work(
    servers: list[Mortal], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = servers[1]
    got_some = threading.Event()

    def answer(body: dict[str, Any]) -> Reply:
        if len(victim.bodies) >= 5:
            got_some.set()
            time.sleep(0.5)  # in flight when the server dies
        return said("reply " + number(body))

    victim.answer = answer

    def kill() -> None:
        assert got_some.wait(10)
        time.sleep(0.05)
        victim.die()

    killer = threading.Thread(target=kill)
    killer.start()
    seen: Counter[int] = Counter()
    cache = Cache(tmp_path / "c.sqlite")
    backbone = CachingBackbone(connect(*servers), cache)
    with caplog.at_level(logging.WARNING):
        completions = backbone.generate(numbered(60), lambda i, c: seen.update([i]))
    killer.join()
    assert [c.text for c in completions] == [f"reply {i}" for i in range(60)]
    assert seen == Counter(range(60)), "every request is reported once"
    assert cache.counts()["completions"] == 60
    dropped = [r.getMessage() for r in caplog.records if "is dropped" in r.getMessage()]
    assert len(dropped) == 1
    assert victim.url in dropped[0]


def test_all_that_die_are_named(servers: list[Mortal]) -> None:
    backbone = connect(*servers[:2])
    for server in servers[:2]:
        server.die()
    with pytest.raises(BackboneError, match="failed 3 times") as e:
        backbone.generate(numbered(4))
    assert all(s.url in str(e.value) for s in servers[:2])
    assert "\n" not in str(e.value)


def test_one_that_comes_back_takes_part_again(
    servers: list[Mortal], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steady, flaky = servers[:2]
    healthy = flaky.answer
    backbone = connect(steady, flaky)

    def reset(body: dict[str, Any]) -> Reply:
        raise ConnectionResetError  # the handler's connection ends without a reply

    flaky.answer = reset
    backbone.generate(numbered(8))
    asked = len(flaky.bodies)
    backbone.generate(numbered(8))
    assert len(flaky.bodies) == asked, "dropped for now"
    flaky.answer = healthy
    monkeypatch.setattr(endpoints, "RECHECK", 0.0)
    with caplog.at_level(logging.WARNING):
        backbone.generate(numbered(24))
    assert len(flaky.bodies) > asked
    assert any(f"{flaky.url} is back" in r.getMessage() for r in caplog.records)


def test_one_that_comes_back_with_another_model_does_not(
    servers: list[Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    steady, flaky = servers[:2]
    backbone = connect(steady, flaky)
    flaky.answer = lambda body: (_ for _ in ()).throw(ConnectionResetError)  # type: ignore[assignment]
    backbone.generate(numbered(8))
    flaky.answer, flaky.models = slow(0.0), [{"id": "other", "owned_by": "someone"}]
    monkeypatch.setattr(endpoints, "RECHECK", 0.0)
    asked = len(flaky.bodies)
    backbone.generate(numbered(24))
    assert len(flaky.bodies) == asked


def test_one_that_is_down_at_the_start(servers: list[Mortal], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backbone = OpenAIBackbone("m", f"{DEAD},{servers[0].url}", server=QUICK)
    assert any(f"no server at {DEAD}" in r.getMessage() for r in caplog.records)
    assert len(backbone.generate(numbered(3))) == 3
    with pytest.raises(BackboneError, match=r"no server at http://127\.0\.0\.1:9/v1 .*, http://127\.0\.0\.1:7/v1"):
        OpenAIBackbone("m", f"{DEAD},http://127.0.0.1:7/v1")


def test_replicas_must_serve_one_model(servers: list[Mortal]) -> None:
    servers[1].models = [{"id": "n", "owned_by": "someone"}]
    with pytest.raises(UnknownNameError, match=servers[1].url):
        connect(*servers)
    for server, name in zip(servers, ("a", "b", "a"), strict=True):
        server.models = [{"id": f"/models/{name}.gguf", "owned_by": "llamacpp"}]
    with pytest.raises(ConfigError, match=r"do not serve the same .*a\.gguf.*b\.gguf.*replicas"):
        connect(*servers)
    assert connect(servers[0], servers[2]).open_turn


def test_replicas_share_the_cache_of_the_first(servers: list[Mortal], tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite")
    alone = CachingBackbone(connect(servers[0]), cache)
    first = alone.generate(numbered(6))
    asked = sum(len(s.bodies) for s in servers)
    together = CachingBackbone(connect(*servers), cache)
    assert together.fingerprint == alone.fingerprint
    assert together.generate(numbered(6)) == first
    assert sum(len(s.bodies) for s in servers) == asked


def test_a_busy_endpoint_is_not_dropped(servers: list[Mortal]) -> None:
    busy = servers[0]
    busy.answer = lambda body: said("ok") if len(busy.bodies) > 3 else (503, "busy", {})
    config = replace(QUICK, max_retries=5)
    assert len(connect(*servers[:2], config=config).generate(numbered(30))) == 30
    assert len(busy.bodies) > 4


def test_addresses_with_commas_through_the_registry(servers: list[Mortal]) -> None:
    backbone = load_backbone("m", backend="openai", base_url=f" {servers[0].url}/ , {servers[0].url},{servers[1].url}")
    assert len(backbone.generate(numbered(8))) == 8
    assert all(s.bodies for s in servers[:2])
    with pytest.raises(ConfigError, match="'nowhere' is no server address"):
        load_backbone("m", backend="openai", base_url=f"{servers[0].url},nowhere")
