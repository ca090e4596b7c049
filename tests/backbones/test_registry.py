from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from promptrl_plugin import plugins
from promptrl_plugin.backbones import evalplus_provider, openai, registry
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.backbones.registry import backend_names, load_backbone
from promptrl_plugin.backbones.scripted import ScriptedBackbone
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError
from promptrl_plugin.storage.cache import Cache


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What was asked of each implementation, none of which loads anything here."""
    calls: list[tuple[Any, ...]] = []

    def transformers(model: str | Path, *, name: str, dtype: str) -> ScriptedBackbone:
        calls.append(("transformers", str(model), name, dtype))
        return ScriptedBackbone({"": ""}, name=name)

    def server(name: str, base_url: str | None, **_how: str) -> ScriptedBackbone:
        calls.append(("openai", name, base_url))
        return ScriptedBackbone({"": ""}, name=name)

    def decoder(name: str, backend: str, **options: Any) -> Any:
        calls.append((backend, name, options))
        raise BackboneError("not here")

    module = ModuleType("promptrl_plugin.backbones.transformers")
    module.TransformersBackbone = transformers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(openai, "OpenAIBackbone", server)
    monkeypatch.setattr(evalplus_provider, "make_decoder", decoder)
    monkeypatch.setenv("PROMPTRL_CACHE", str(tmp_path / "empty"))
    return calls


def test_hf_resolves_names(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    load_backbone("codet5p-770m", dtype="float32")
    load_backbone(str(tmp_path))
    load_backbone("org/model")
    assert made == [
        ("transformers", "Salesforce/codet5p-770m-py", "codet5p-770m", "float32"),
        ("transformers", str(tmp_path), str(tmp_path), "auto"),
        ("transformers", "org/model", "org/model", "auto"),
    ]


def test_a_name_that_is_nothing(made: list[tuple[Any, ...]]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'codet5p-770m'"):
        load_backbone("codet5-770m")
    assert made == []


def test_servers_are_given_the_name_as_it_is(made: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    load_backbone("gpt", backend="openai")
    load_backbone("gpt", backend="openai", base_url="http://x/v1")
    load_backbone("qwen2.5:0.5b", backend="ollama")
    monkeypatch.setenv("OLLAMA_HOST", "box:1")
    load_backbone("qwen2.5:0.5b", backend="ollama")
    assert made == [
        ("openai", "gpt", None),
        ("openai", "gpt", "http://x/v1"),
        ("openai", "qwen2.5:0.5b", "http://localhost:11434/v1"),
        ("openai", "qwen2.5:0.5b", "http://box:1/v1"),
    ]


def test_evalplus_providers(made: list[tuple[Any, ...]]) -> None:
    for backend in ("vllm", "anthropic", "google", "bedrock"):
        with pytest.raises(BackboneError, match="not here"):
            load_backbone("codet5p-770m", backend=backend)
    assert [c[0] for c in made] == ["vllm", "anthropic", "google", "bedrock"]
    assert made[0][1:] == ("Salesforce/codet5p-770m-py", {"dtype": "auto"})
    assert made[1][1:] == ("codet5p-770m", {"base_url": None})


def test_a_cache_is_put_in_front(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite")
    backbone = load_backbone("org/model", cache=cache)
    assert isinstance(backbone, CachingBackbone)
    assert backbone.cache is cache
    assert backbone.name == "org/model"
    assert not isinstance(load_backbone("org/model"), CachingBackbone)


def test_an_unknown_backend_names_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown backend 'opnai'; did you mean 'openai'"):
        load_backbone("m", backend="opnai")


@pytest.mark.parametrize("backend", ["hf", "vllm", "anthropic", "google", "bedrock"])
def test_an_address_for_a_backend_that_asks_no_server_is_refused(backend: str) -> None:
    with pytest.raises(ConfigError, match=f"backend {backend} asks no server .*add --backend openai, or leave it out"):
        load_backbone("no/model", backend=backend, base_url="http://x/v1")


def factory(name: str, *, dtype: str, base_url: str | None) -> ScriptedBackbone:
    return ScriptedBackbone({"": dtype}, name=f"mine:{name}")


def test_other_packages_add_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:factory", registry.ENTRY_POINT_GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    assert backend_names()[-1] == "mine"
    assert load_backbone("m", backend="mine").name == "mine:m"
