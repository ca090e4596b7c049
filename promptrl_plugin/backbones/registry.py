"""Backbones by the names that a user gives: a model, and a backend as EvalPlus's ``--backend``.

| backend | implementation |
| --- | --- |
| ``hf`` | `transformers.TransformersBackbone`: alias, hub id, folder or ``.gguf`` file, in this process |
| ``openai`` | `openai.OpenAIBackbone`: any OpenAI-compatible server |
| ``ollama`` | the same, at Ollama's usual address |
| ``vllm``, ``anthropic``, ``google``, ``bedrock`` | `evalplus_provider.EvalPlusBackbone` |

Other packages add theirs under the entry-point group ``promptrl.backbones``: name → a function
``(name, *, dtype, base_url) -> Backbone``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from promptrl_plugin.backbones.base import Backbone
from promptrl_plugin.backbones.caching import CachingBackbone
from promptrl_plugin.errors import BackboneError, ConfigError, UnknownNameError
from promptrl_plugin.plugins import load_plugin, plugin_names
from promptrl_plugin.storage.cache import Cache

__all__ = ["BACKENDS", "ENTRY_POINT_GROUP", "BackboneFactory", "backend_names", "check_base_url", "load_backbone"]

ENTRY_POINT_GROUP = "promptrl.backbones"


class BackboneFactory(Protocol):
    """Makes a backbone of one backend."""

    def __call__(self, name: str, *, dtype: str, base_url: str | None) -> Backbone: ...


def _hf(name: str, *, dtype: str, base_url: str | None) -> Backbone:
    from promptrl_plugin.backbones.models import get, resolve

    location = resolve(name)
    try:
        model = get(name)
    except UnknownNameError:
        pass
    else:
        if model.embedder:
            raise BackboneError(f"{name} embeds sentences and cannot write code; see `promptrl models list`")
    from promptrl_plugin.backbones.transformers import TransformersBackbone

    return TransformersBackbone(location, name=name, dtype=dtype)


def _openai(name: str, *, dtype: str, base_url: str | None) -> Backbone:
    from promptrl_plugin.backbones.openai import OpenAIBackbone

    return OpenAIBackbone(name, base_url)


def _ollama(name: str, *, dtype: str, base_url: str | None) -> Backbone:
    from promptrl_plugin.backbones.openai import OpenAIBackbone

    host = os.environ.get("OLLAMA_HOST") or "localhost:11434"
    url = base_url or f"{host if '://' in host else f'http://{host}'}/v1"
    return OpenAIBackbone(name, url, start="ollama serve", address="OLLAMA_HOST")


def _evalplus(backend: str) -> BackboneFactory:
    def make(name: str, *, dtype: str, base_url: str | None) -> Backbone:
        from promptrl_plugin.backbones.evalplus_provider import EvalPlusBackbone, make_decoder
        from promptrl_plugin.backbones.models import resolve

        if backend != "vllm":  # a service: its own name of the model, and no dtype
            return EvalPlusBackbone(make_decoder(name, backend, base_url=base_url), backend)
        return EvalPlusBackbone(make_decoder(str(resolve(name)), backend, dtype=dtype), backend, dtype)

    return make


BACKENDS: Mapping[str, BackboneFactory] = MappingProxyType(
    {
        "hf": _hf,
        "openai": _openai,
        "ollama": _ollama,
        **{backend: _evalplus(backend) for backend in ("vllm", "anthropic", "google", "bedrock")},
    }
)


#: Built-in backends that talk to the server that they are given; EvalPlus's providers have addresses of their own.
_SERVED = ("openai", "ollama")


def check_base_url(backend: str, base_url: str | None) -> None:
    """Refuse a server's address for a backend that would not ask it; what another package's does is its own affair.

    Raises:
        ConfigError: It is one.
    """
    if base_url and backend in BACKENDS and backend not in _SERVED:
        raise ConfigError(
            f"backend {backend} asks no server at --base-url {base_url}; add --backend openai, or leave it out"
        )


def load_backbone(
    name: str, *, backend: str = "hf", dtype: str = "auto", base_url: str | None = None, cache: Cache | None = None
) -> Backbone:
    """Load a backbone.

    Args:
        name: Alias, hub id, path, or what a service calls its model.
        backend: One of `backend_names`.
        dtype: Of a model that runs in this process: ``"auto"``, ``"bfloat16"``, ``"float32"``, …
        base_url: Of a server.
        cache: Answers from and stores in this cache; None generates every time.

    Raises:
        UnknownNameError: No such backend, alias or served model; near names are suggested.
        ConfigError: The backend is another package's and cannot be loaded, or takes no `base_url`.
        BackboneError: The model cannot be found or loaded, or the server cannot be reached.
    """
    check_base_url(backend, base_url)
    backbone = _factory(backend)(name, dtype=dtype, base_url=base_url)
    return backbone if cache is None else CachingBackbone(backbone, cache)


def backend_names() -> tuple[str, ...]:
    """Every backend: the built-in ones, then those of other packages."""
    others = plugin_names(ENTRY_POINT_GROUP) - BACKENDS.keys()
    return (*BACKENDS, *sorted(others))


def _factory(backend: str) -> BackboneFactory:
    if backend in BACKENDS:
        return BACKENDS[backend]
    factory: BackboneFactory | None = load_plugin(ENTRY_POINT_GROUP, "backend", backend)
    if factory is not None:
        return factory
    raise UnknownNameError("backend", backend, backend_names())
