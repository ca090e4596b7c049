from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptrl_plugin.backbones import embedding
from promptrl_plugin.backbones.embedding import Embedder
from promptrl_plugin.config import DEFAULT_EMBEDDER
from promptrl_plugin.errors import BackboneError, UnknownNameError
from promptrl_plugin.storage.cache import Cache


class FakeModel:
    """Unit vectors that depend on the text; counts what it is asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: list[str], *, normalize_embeddings: bool, **options: Any) -> np.ndarray[Any, Any]:
        assert normalize_embeddings
        self.texts += texts
        rows = np.array([[len(t), sum(map(ord, t)) % 97 + 1, 1.0] for t in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    model = FakeModel()
    monkeypatch.setattr(embedding, "_load", lambda name, location: model)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "emb").mkdir()
    (tmp_path / "emb" / "model.safetensors").write_bytes(b"weights")
    return str(tmp_path / "emb")


def test_each_text_is_embedded_once_and_rows_are_in_order(model: FakeModel, folder: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite")
    texts = ["add", "subtract", "add"]
    rows = Embedder(folder, cache=cache).encode(texts)
    assert rows.shape == (3, 3)
    assert rows.dtype == np.float32
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])
    assert model.texts == ["add", "subtract"]
    again = Embedder(folder, cache=cache).encode(["subtract", "divide"])
    assert np.array_equal(again[0], rows[1])
    assert model.texts == ["add", "subtract", "divide"]


def test_other_weights_share_nothing(model: FakeModel, folder: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite")
    Embedder(folder, cache=cache).encode(["add"])
    (Path(folder) / "model.safetensors").write_bytes(b"others")
    Embedder(folder, cache=cache).encode(["add"])
    assert model.texts == ["add", "add"]


def test_without_a_cache_and_without_texts(model: FakeModel, folder: str) -> None:
    assert Embedder(folder).encode([]).shape == (0, 3)
    assert Embedder(folder).encode(["add"]).shape == (1, 3)


def test_no_embedding_model(folder: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'all-minilm-l6-v2'"):
        Embedder("all-minilm")
    with pytest.raises(BackboneError, match="smollm2-135m-instruct is no sentence-embedding model"):
        Embedder("smollm2-135m-instruct")
    with pytest.raises(BackboneError, match="promptrl models pull all-minilm-l6-v2"):
        Embedder(folder).encode(["add"])  # a folder that holds no model


@pytest.mark.integration
def test_the_default_model(tmp_path: Path) -> None:
    embedder = Embedder(DEFAULT_EMBEDDER, cache=Cache(tmp_path / "c.sqlite"))
    rows = embedder.encode(["sum of a list", "add up the numbers of a list", "open a file on disk"])
    assert rows.shape == (3, 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert embedder.fingerprint == "all-minilm-l6-v2@53aa51172d14"
