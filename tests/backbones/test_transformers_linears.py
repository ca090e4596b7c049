"""Faster linear layers in the place of torch's compute what those compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_causal, save_seq2seq

from promptrl_plugin.backbones import int8, linears, loading, packed
from promptrl_plugin.backbones.linears import MakeLinear
from promptrl_plugin.backbones.transformers import TransformersBackbone
from promptrl_plugin.records import Decoding, GenerationRequest, Prompt

needs_packing = pytest.mark.skipif(
    not packed.supported(torch.float32), reason="torch packs no weights on this platform"
)
needs_int8 = pytest.mark.skipif(not int8.supported(), reason="torch has no int8 kernels on this platform")


def _packers(dtype: torch.dtype) -> list[MakeLinear]:
    """Those that can run here: packed bfloat16 only where the processor has it."""
    found: list[MakeLinear] = [packed.PackedLinear] if packed.supported(dtype) else []
    return [*found, packed.RoundedLinear] if dtype == torch.bfloat16 else found


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 130])
def test_a_packed_layer(dtype: torch.dtype, bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40, bias=bias).to(dtype)
    x = torch.randn(2, rows, 96).to(dtype)
    layers = [make(linear.weight, linear.bias) for make in _packers(dtype)]
    exact = linear.float()(x.float())
    assert layers
    for layer in layers:
        got = layer(x)
        assert got.shape == exact.shape
        assert got.dtype == dtype
        assert ((got.float() - exact).norm() / exact.norm()) < (0.01 if dtype == torch.bfloat16 else 1e-6)


@needs_packing
def test_bfloat16_on_a_processor_without_it_is_float32_rounded_once() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40).bfloat16()
    x = torch.randn(7, 96).bfloat16()
    got = packed.RoundedLinear(linear.weight, linear.bias)(x)
    exact = (x.double() @ linear.weight.double().T + linear.bias.double()).float()
    # as near as bfloat16 comes: 8 bits, half of the last one
    assert bool(((got.float() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all())


@needs_packing
def test_what_makes_the_layers_of_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "supported", lambda dtype: dtype == torch.float32)
    for dtype, kind in ((torch.float32, packed.PackedLinear), (torch.bfloat16, packed.RoundedLinear)):
        assert packed.packs(dtype)
        layer = packed.pack(torch.ones(8, 16, dtype=dtype), None)
        assert type(layer) is kind
        assert layer(torch.ones(3, 16, dtype=dtype)).dtype == dtype
    assert not packed.packs(torch.float16)
    monkeypatch.setattr(packed, "supported", lambda dtype: False)
    assert not packed.packs(torch.bfloat16)


@needs_packing
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_is_packed_and_writes_what_plain_layers_write(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_causal(tmp_path, chat=False)
    fast = TransformersBackbone(folder, dtype=dtype)
    assert not any(type(m) is torch.nn.Linear for m in fast._model.modules())
    monkeypatch.setattr(packed, "supported", lambda dtype: False)
    plain = TransformersBackbone(folder, dtype=dtype)
    assert any(type(m) is torch.nn.Linear for m in plain._model.modules())
    assert fast.fingerprint == plain.fingerprint  # the same numerics, up to rounding
    requests = [GenerationRequest(Prompt((), "", p), Decoding(max_new_tokens=1)) for p in ("def f", "abc", "x = 1")]
    assert [c.text for c in fast.generate(requests)] == [c.text for c in plain.generate(requests)]


@needs_packing
@needs_int8
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_t5_whose_code_asks_for_the_types_of_its_layers(dtype: str, tmp_path: Path) -> None:
    source = loading.locate(save_seq2seq(tmp_path))
    exact = loading.load_model(source, "float64", "cpu")
    fast = loading.load_model(source, dtype, "cpu")
    assert not any(type(m) is torch.nn.Linear for m in fast.modules())
    ids = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 9]])}
    wanted, got = exact(**ids).logits, fast(**ids).logits.double()
    assert ((got - wanted).norm() / wanted.norm()) < {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.15}[dtype]


@needs_int8
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_with_one_input_are_computed_as_one_with_the_same_values(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = loading.locate(save_causal(tmp_path, kind=kind))
    joined = loading.load_model(source, "int8", "cpu")
    monkeypatch.setattr(linears, "_JOINED", ())
    single = loading.load_model(source, "int8", "cpu")
    layer = joined.model.layers[0]
    parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.gate_proj]
    assert all(isinstance(part, linears.JoinedPart) for part in parts)
    assert isinstance(single.model.layers[0].self_attn.q_proj, int8.Int8Linear)
    x = torch.randn(3, 5, 32)
    for name in ("q_proj", "v_proj", "k_proj", "q_proj", "k_proj"):  # any order, any number of times
        one, other = (getattr(m.model.layers[0].self_attn, name)(x) for m in (joined, single))
        assert torch.equal(one, other), name
