"""Sentence embeddings (all-MiniLM-L6-v2 by default), remembered by the text's hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptrl_plugin.backbones.loading import quiet
from promptrl_plugin.backbones.models import get, pull, resolve
from promptrl_plugin.config import DEFAULT_EMBEDDER
from promptrl_plugin.errors import BackboneError, UnknownNameError
from promptrl_plugin.records import content_hash
from promptrl_plugin.storage.cache import Cache

__all__ = ["Embedder"]


class Embedder:
    """Texts to unit vectors, on the CPU. The model is loaded at the first text that is not in the cache.

    Args:
        name: Alias, folder or hub id of a sentence-transformers model.
        cache: Where vectors are kept; None keeps none.

    Raises:
        UnknownNameError: `name` is neither alias, path nor hub id.
        BackboneError: The model cannot be got.
    """

    def __init__(self, name: str = DEFAULT_EMBEDDER, *, cache: Cache | None = None) -> None:
        self.name = name
        self._cache = cache
        self._model: Any = None
        self._location = _locate(name)
        self.fingerprint = _fingerprint(name, self._location)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed `texts`.

        Returns:
            Array ``[n, dimensions]`` of float32 (384 dimensions for the default model), each row of length 1.

        Raises:
            BackboneError: The model cannot be loaded.
            CacheError: The cache file failed.
        """
        keys = [content_hash("embedding", self.fingerprint, t) for t in texts]
        known = self._cache.get_embeddings(keys) if self._cache is not None else {}
        new = {k: t for k, t in zip(keys, texts, strict=True) if k not in known}
        if new or not texts:
            vectors = self._encode(list(new.values()))
            if not texts:
                return vectors
            fresh = {k: v.tobytes() for k, v in zip(new, vectors, strict=True)}
            if self._cache is not None:
                self._cache.put_embeddings(fresh)
            known |= fresh
        return np.stack([np.frombuffer(known[k], dtype="<f4") for k in keys]).astype(np.float32, copy=False)

    def _encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        if self._model is None:
            self._model = _load(self.name, self._location)
        vectors = self._model.encode(
            texts or [""],  # no text at all: for the number of columns
            batch_size=32,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype="<f4")[: len(texts)]


def _locate(name: str) -> str | Path:
    try:
        is_embedder = get(name).embedder
    except UnknownNameError:
        return resolve(name)
    if not is_embedder:
        raise BackboneError(f"{name} is no sentence-embedding model; use {DEFAULT_EMBEDDER}")
    return pull(name)


def _fingerprint(name: str, location: str | Path) -> str:
    """Name, and hash of the weights where they are local."""
    weights = Path(location) / "model.safetensors"
    if not weights.is_file():
        return name
    with weights.open("rb") as f:
        return f"{Path(name).name.lower()}@{hashlib.file_digest(f, 'sha256').hexdigest()[:12]}"


def _load(name: str, location: str | Path) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise BackboneError(
            "sentence embeddings need sentence-transformers: pip install sentence-transformers"
        ) from None
    try:
        with quiet():
            return SentenceTransformer(str(location), device="cpu")
    except Exception as e:  # from the hub, torch or safetensors, each with exceptions of its own
        text = " ".join(str(e).split())[:200]
        raise BackboneError(
            f"cannot load the embedding model {name} ({text}); run `promptrl models pull {DEFAULT_EMBEDDER}`"
        ) from e
