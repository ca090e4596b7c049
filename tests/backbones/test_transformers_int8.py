"""8-bit linear layers stay close to float32, and one token does not blur another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_causal

from promptrl_plugin.backbones import int8
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.errors import BackboneError
from promptrl_plugin.records import Decoding, GenerationRequest, Prompt

pytestmark = pytest.mark.skipif(not int8.supported(), reason="torch has no int8 kernels on this platform")


@pytest.mark.parametrize("bias", [True, False])
def test_error_of_a_layer(bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40, bias=bias)
    linear.weight.data *= torch.logspace(-3, 2, 40)[:, None]  # channels of very different size
    x = torch.randn(2, 7, 96) * torch.logspace(-3, 3, 7)[:, None]  # tokens, too
    exact = linear(x).detach()
    got = int8.Int8Linear(linear.weight, linear.bias)(x)
    assert got.shape == exact.shape
    core = exact - (linear.bias if bias else 0)
    error = (got - exact).norm(dim=-1) / core.norm(dim=-1)
    assert error.max() < 0.03


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = int8.Int8Linear(torch.randn(24, 32), None)
    x = torch.randn(5, 32)
    outlier = torch.full((1, 32), 1e4)
    assert torch.equal(layer(torch.cat([x, outlier]))[:5], layer(x))


def test_the_extremes_do_not_overflow() -> None:
    """AVX2 adds two products in 16 bits; full-scale weights and activations must not saturate them."""
    layer = int8.Int8Linear(torch.ones(8, 64), None)
    assert torch.allclose(layer(torch.ones(1, 64)), torch.full((1, 8), 64.0), rtol=1e-3)
    assert torch.allclose(layer(-torch.ones(1, 64)), torch.full((1, 8), -64.0), rtol=1e-3)


def test_zeros() -> None:
    layer = int8.Int8Linear(torch.zeros(8, 16), torch.arange(8.0))
    assert torch.equal(layer(torch.zeros(2, 16)), torch.arange(8.0).expand(2, 8))
    assert torch.equal(layer(torch.randn(2, 16)), torch.arange(8.0).expand(2, 8))


def test_a_model_in_int8(tmp_path: Path) -> None:
    folder = save_causal(tmp_path, chat=False)
    exact = TransformersBackbone(folder, dtype="float32")
    small = TransformersBackbone(folder, dtype="int8")
    assert not any(type(m) is torch.nn.Linear for m in small._model.modules())
    assert small.fingerprint == exact.fingerprint.replace("float32", "int8")
    requests = [GenerationRequest(Prompt((), "", p), Decoding(max_new_tokens=8)) for p in ("def f", "abc", "x = 1")]
    assert small.generate(requests) == [small.generate([r])[0] for r in requests]
    firsts = [[c.text[:1] for c in b.generate(requests)] for b in (exact, small)]
    assert firsts[0] == firsts[1]


def test_int8_is_for_cpus(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="int8 runs on CPUs"):
        TransformersBackbone(save_causal(tmp_path), dtype="int8", device="cuda")
