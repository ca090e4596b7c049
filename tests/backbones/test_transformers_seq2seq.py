"""Encoder-decoder models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import save_seq2seq

from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.records import Decoding, GenerationRequest, Message, Prompt

PROMPTS = ["def f(x):", "abc", "a rather long prompt that goes on", "def g(x, y): return", "z"]


def request(text: str, new: int = 24, temperature: float = 0.0, index: int = 0) -> GenerationRequest:
    return GenerationRequest(Prompt((Message("user", "-"),), "", text), Decoding(temperature, 0.9, new), 0, index)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq(tmp_path_factory.mktemp("t5"))


def reference(folder: Path, text: str, new: int) -> tuple[str, int]:
    """Greedy text and length by transformers' own `generate`, one prompt at a time."""
    tok: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        out = model.generate(
            tok(text, return_tensors="pt").input_ids, max_new_tokens=new, do_sample=False, eos_token_id=[1, 4]
        )
    return tok.decode(out[0], skip_special_tokens=True), out.shape[1] - 1


def test_greedy_equals_transformers_generate(folder: Path) -> None:
    backbone = TransformersBackbone(folder, dtype="float32", rows=3)
    assert not backbone.chat
    requests = [request(p, new=10 + 4 * i) for i, p in enumerate(PROMPTS)]
    for r, done in zip(requests, backbone.generate(requests), strict=True):
        text, length = reference(folder, r.prompt.plain, r.decoding.max_new_tokens)
        assert done.text == text
        assert done.completion_tokens == length
        assert done.plain


def test_batch_size_changes_nothing_and_draws_belong_to_the_request(folder: Path) -> None:
    requests = [request(p, 12, t, i) for i, p in enumerate(PROMPTS) for t in (0.0, 1.0)]
    together = TransformersBackbone(folder, dtype="float32", rows=32).generate(requests)
    assert together == TransformersBackbone(folder, dtype="float32", rows=1).generate(requests)
    redraw = TransformersBackbone(folder, dtype="float32").generate([request("abc", 12, 1.0, i) for i in range(4)])
    assert len({c.text for c in redraw}) == 4
