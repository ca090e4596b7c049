"""Draws depend on seed, index and prompt only, and follow the exact distribution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_models import save_causal

from promptrl_plugin.backbones.sampling import choose, uniforms
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.records import Decoding, GenerationRequest, Prompt


def sampled(text: str, index: int = 0, seed: int = 0, new: int = 20) -> GenerationRequest:
    return GenerationRequest(Prompt((), "", text), Decoding(0.9, 0.9, new), seed, index)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> TransformersBackbone:
    return TransformersBackbone(save_causal(tmp_path_factory.mktemp("llama"), chat=False), dtype="float32", rows=5)


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """Exact probabilities: the fewest most likely tokens that reach `top_p`, renormalised (Holtzman et al. 2020)."""
    p = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    order = np.argsort(-p)
    kept = order[: np.searchsorted(np.cumsum(p[order]), top_p) + 1]
    out = np.zeros_like(p)
    out[kept] = p[kept] / p[kept].sum()
    return out


def test_a_draw_does_not_depend_on_the_batch(backbone: TransformersBackbone) -> None:
    requests = [sampled(t, i) for t in ("def a", "def b(", "x") for i in range(4)]
    together = backbone.generate(requests)
    assert together == [backbone.generate([r])[0] for r in requests]
    assert together[::-1] == backbone.generate(requests[::-1])


def test_seed_and_index_name_the_draw(backbone: TransformersBackbone) -> None:
    texts = [c.text for c in backbone.generate([sampled("def a", i, s) for i in range(3) for s in range(3)])]
    assert len(set(texts)) == 9


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.5), (1.0, 0.0)])
def test_frequencies_are_those_of_the_nucleus(temperature: float, top_p: float) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 2
    expected = nucleus(logits, temperature, top_p)
    n = 20000
    draws = (np.arange(n) + 0.5) / n  # evenly spread: frequencies are exact up to 1/n at each boundary
    tokens = choose(logits.expand(n, -1), [Decoding(temperature, top_p)] * n, draws.tolist())
    found = np.bincount(tokens, minlength=40) / n
    assert np.abs(found - expected).max() <= 2 / n


def test_flat_distribution_over_a_large_vocabulary() -> None:
    """The nucleus is larger than the candidates that are looked at first."""
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 0.01
    expected = nucleus(logits, 1.0, 0.9)
    n = 4000
    tokens = choose(logits.expand(n, -1), [Decoding(1.0, 0.9)] * n, ((np.arange(n) + 0.5) / n).tolist())
    assert expected[tokens].min() > 0
    assert len(set(tokens)) == np.count_nonzero(expected)


def test_samples_of_a_model_follow_its_softmax(backbone: TransformersBackbone) -> None:
    """First tokens of 4000 draws against the model's own distribution: Pearson's chi-squared test."""
    prompt, n = "def f", 4000
    ids = torch.tensor([backbone._tokenizer.encode(prompt)])
    backbone._model.set_attn_implementation("eager")
    with torch.inference_mode():
        p = nucleus(backbone._model(ids).logits[0, -1], 0.9, 0.9)
    backbone._model.set_attn_implementation("promptrl_packed")
    done = backbone.generate([sampled(prompt, i, new=1) for i in range(n)])
    counts = Counter(c.text for c in done)
    ends = sum(c.finish_reason == "stop" for c in done)
    statistic, cells = 0.0, 0
    for token in np.flatnonzero(p * n >= 5):
        text = backbone._tokenizer.decode([int(token)], skip_special_tokens=True)
        if text:
            statistic += (counts[text] - n * p[token]) ** 2 / (n * p[token])
            cells += 1
    assert abs(ends - n * (p[1] + p[4])) <= 5 * np.sqrt(n * max(p[1] + p[4], 1 / n))
    assert cells >= 3
    assert statistic <= cells + 5 * np.sqrt(2 * cells)


def test_greedy_and_sampled_rows_mix() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert choose(logits, [Decoding(), Decoding(1.0, 1.0)], [0.999, 0.999]) == [2, 0]


def test_uniforms_are_a_function_of_the_request() -> None:
    assert (uniforms(1, 2, "a", 5) == uniforms(1, 2, "a", 9)[:5]).all()
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (12, 0, "a")):
        assert (uniforms(*other, 5) != uniforms(1, 2, "a", 5)).all()
