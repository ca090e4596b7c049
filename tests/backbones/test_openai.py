from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, Server, said

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.openai import OpenAIBackbone
from promptrl_plugin.backbones.registry import load_backbone
from promptrl_plugin.backbones.replies import SYSTEM
from promptrl_plugin.config import ServerConfig
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError
from promptrl_plugin.prompts.template import CHAT_STOP, INSTRUCTION_PREFIX
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt
from promptrl_plugin.storage.cache import Cache

QUICK = ServerConfig(concurrency=4, timeout=5.0, max_retries=2, backoff=0.01, max_backoff=0.05)
CODE = Prompt(
    (Message("user", f"{INSTRUCTION_PREFIX}\n```\nadd two numbers\n```\n"),), "Below:\n```python\n", "", CHAT_STOP
)
TEXT = Prompt((Message("user", "rewrite this"),), "Write a function that", "", ("\n",))


def request(prompt: Prompt = CODE, temperature: float = 0.0, seed: int = 0, index: int = 0) -> GenerationRequest:
    return GenerationRequest(prompt, Decoding(temperature, 0.95, 100), seed, index)


def numbered(n: int) -> list[GenerationRequest]:
    return [request(Prompt((Message("user", str(i)),), "", "")) for i in range(n)]


def number(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def connect(server: Server, model: str = "m", **options: Any) -> OpenAIBackbone:
    return OpenAIBackbone(model, server.url, server=options.pop("config", QUICK), **options)


# --- what is sent --------------------------------------------------------------------------------


def test_code_is_asked_for_exactly_as_evalplus_does(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalplus.provider.openai import OpenAIChatDecoder

    decoder = OpenAIChatDecoder("m", base_url=server.url, temperature=0.0, instruction_prefix=INSTRUCTION_PREFIX)
    server.answer = lambda body: (200, {"choices": [{"message": {"role": "assistant", "content": "x"}}]}, {})
    decoder.codegen("add two numbers\n", do_sample=False, num_samples=1)
    backbone = connect(server)
    assert isinstance(backbone, Backbone)
    backbone.generate([request()])
    theirs, ours = server.bodies
    assert ours["messages"] == theirs["messages"]
    assert ours["messages"][0]["content"] == SYSTEM
    assert (ours["model"], ours["temperature"], ours["max_tokens"]) == ("m", 0.0, 100)
    assert not {"stop", "seed", "continue_final_message"} & set(ours)


def test_the_turn_is_opened_where_the_server_can_go_on(server: Server) -> None:
    server.models = [{"id": "m", "owned_by": "vllm"}]
    backbone = connect(server)
    assert backbone.open_turn
    backbone.generate([request()])
    body = server.bodies[0]
    assert body["messages"] == [
        {"role": "user", "content": CODE.messages[0].content},
        {"role": "assistant", "content": CODE.prefix},
    ]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["stop"] == list(CHAT_STOP)
    assert backbone.fingerprint != connect(server, open_turn=False).fingerprint


def test_without_a_prefix_no_turn_is_opened(server: Server) -> None:
    connect(server, open_turn=True).generate([request(Prompt((Message("user", "hi"),), "", ""))])
    assert len(server.bodies[0]["messages"]) == 1
    assert "continue_final_message" not in server.bodies[0]


def test_seed_and_index_name_the_draw_when_sampling(server: Server) -> None:
    backbone = connect(server)
    draws = [(0, 0), (0, 1), (1, 0), (0, 1)]
    for seed, index in draws:
        backbone.generate([request(temperature=0.8, seed=seed, index=index)])
    seeds = [b["seed"] for b in server.bodies]
    assert len(set(seeds)) == 3
    assert seeds[1] == seeds[3]
    assert all(0 <= s < 2**31 for s in seeds)
    assert {b["top_p"] for b in server.bodies} == {0.95}


def test_key_and_address_come_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    OpenAIBackbone("m", server=QUICK).generate([request()])
    assert server.headers[0]["Authorization"] == "Bearer sk-1"


# --- what is made of replies ---------------------------------------------------------------------


def test_a_reply_with_code_is_left_to_the_sanitizer_with_tokens_of_the_server(server: Server) -> None:
    reply = "Sure:\n```python\ndef f(): pass\n```\nDone.\nprint(1)"
    server.answer = lambda body: said(reply, usage={"prompt_tokens": 11, "completion_tokens": 7})
    done = connect(server).generate([request()])[0]
    assert (done.text, done.prompt_tokens, done.completion_tokens, done.finish_reason) == (reply, 11, 7, "stop")
    assert not done.plain


@pytest.mark.parametrize("reply", ["Write a function that adds.\nMore.", " write a function that adds.", " adds.\n"])
def test_a_reply_with_text_goes_on_from_the_prefix_and_ends_at_the_stop(server: Server, reply: str) -> None:
    server.answer = lambda body: said(reply)
    assert connect(server).generate([request(TEXT)])[0].text.strip() == "adds."


def test_an_opened_turn_that_is_repeated_is_not_part_of_the_text(server: Server) -> None:
    server.answer = lambda body: said(CODE.prefix + "def f(): pass")
    assert connect(server, open_turn=True).generate([request()])[0].text == "def f(): pass"


def test_a_cut_reply_and_tokens_that_nobody_counted(server: Server) -> None:
    server.answer = lambda body: said("x" * 400, "length")
    done = connect(server).generate([request()])[0]
    assert done.finish_reason == "length"
    assert done.completion_tokens == 100
    server.answer = lambda body: said(None)
    assert connect(server).generate([request()])[0].text == ""


# --- concurrency and retries ---------------------------------------------------------------------


def test_requests_run_at_once_up_to_the_limit_and_come_back_in_order(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        time.sleep(0.05 if int(number(body)) % 2 else 0.01)
        return said("reply " + number(body))

    server.answer = answer
    seen: list[tuple[int, str]] = []
    completions = connect(server).generate(numbered(12), lambda i, c: seen.append((i, c.text)))
    assert [c.text for c in completions] == [f"reply {i}" for i in range(12)]
    assert sorted(seen) == [(i, f"reply {i}") for i in range(12)]
    assert 2 <= server.most_running <= QUICK.concurrency


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes_is_tried_again(server: Server, status: int) -> None:
    server.answer = lambda body: said("ok") if len(server.bodies) > 2 else (status, "busy", {})
    assert connect(server).generate([request()])[0].text == "ok"
    assert len(server.bodies) == 3


def test_the_server_says_how_long_to_wait(server: Server) -> None:
    server.answer = lambda body: said("ok") if len(server.bodies) > 1 else (429, "", {"Retry-After": "0.3"})
    start = time.monotonic()
    connect(server, config=replace(QUICK, max_backoff=1.0)).generate([request()])
    assert time.monotonic() - start >= 0.3


def test_retries_end(server: Server) -> None:
    server.answer = lambda body: (503, {"error": {"message": "over\nloaded"}}, {"Retry-After": "3600"})
    with pytest.raises(BackboneError, match=r"failed 3 times \(HTTP 503: over loaded\)"):
        connect(server).generate([request()])
    assert len(server.bodies) == QUICK.max_retries + 1


def test_a_request_that_is_refused_is_not_tried_again(server: Server) -> None:
    server.answer = lambda body: (400, {"error": {"message": "context too long"}}, {})
    with pytest.raises(BackboneError, match=r"refused the request .HTTP 400: context too long"):
        connect(server).generate([request()])
    assert len(server.bodies) == 1


def test_one_failure_drops_the_rest_and_keeps_what_was_done(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: (400, "no", {}) if number(body) == "2" else said(number(body))
    cache = Cache(tmp_path / "c.sqlite")
    config = replace(QUICK, concurrency=1)
    with pytest.raises(BackboneError, match="refused"):
        CachingBackbone(connect(server, config=config), cache).generate(numbered(8))
    assert cache.counts()["completions"] >= 2
    assert len(server.bodies) < 8
    server.answer = lambda body: said(number(body))
    again = CachingBackbone(connect(server, config=config), cache)
    assert [c.text for c in again.generate(numbered(8))] == [str(i) for i in range(8)]
    assert again.stats.hits >= 2


def test_a_reply_that_is_no_completion(server: Server) -> None:
    server.answer = lambda body: (200, "<html>welcome</html>", {})
    with pytest.raises(BackboneError, match="something else than a chat completion"):
        connect(server).generate([request()])


# --- connecting ----------------------------------------------------------------------------------


def test_a_server_that_is_down(server: Server) -> None:
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(BackboneError, match=r"no server at http://127\.0\.0\.1:9/v1 .*start one .*vllm serve m") as e:
        OpenAIBackbone("m", url)
    assert "\n" not in str(e.value)
    assert "OPENAI_BASE_URL" in str(e.value)


def test_an_ollama_that_is_down() -> None:
    with pytest.raises(BackboneError, match=r"start one .*`ollama serve`.*--base-url or OLLAMA_HOST") as e:
        load_backbone("m", backend="ollama", base_url="http://127.0.0.1:9/v1")
    assert "vllm" not in str(e.value)


def test_a_server_that_goes_down(server: Server) -> None:
    backbone = connect(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(BackboneError, match=r"failed 3 times .*check the server"):
        backbone.generate([request()])


def test_a_model_that_is_not_served(server: Server) -> None:
    server.models = [{"id": "qwen-coder", "owned_by": "vllm"}]
    with pytest.raises(UnknownNameError, match="did you mean 'qwen-coder'"):
        connect(server, "qwen-code")


def test_servers_with_names_of_their_own(server: Server) -> None:
    server.models = [{"id": "m:latest", "owned_by": "library"}]
    assert not connect(server).open_turn
    server.models = [{"id": "/models/m.gguf", "owned_by": "llamacpp"}]
    assert connect(server, "anything").open_turn
    server.models = []
    assert not connect(server, "anything").open_turn


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "/v1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="is no server address"):
        OpenAIBackbone("m", url)


def test_closed(server: Server) -> None:
    backbone = connect(server)
    backbone.close()
    backbone.close()
    with pytest.raises(BackboneError, match="is closed"):
        backbone.generate([request()])
