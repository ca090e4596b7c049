"""Linear layers with 8-bit weights for CPUs, on the kernels that ship with torch (FBGEMM).

Weights are quantized once, per output channel; activations as they come, per token. Torch's own dynamic
quantization takes one scale for the whole batch: then one token with a large activation (the first of a
Llama or Qwen sequence has values in the thousands) blurs all others, and a completion depends on what else
is in the batch. Here each token is divided by its own largest absolute value first, so neither happens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from promptrl_plugin.errors import BackboneError

__all__ = ["Int8Linear", "Int8Part", "quantize_linears", "supported"]

_ENGINES = ("x86", "fbgemm")
_ACTIVATION_LEVELS = 127
_WEIGHT_LEVELS = 64
"""AVX2 adds pairs of (unsigned activation × signed weight) in 16 bits: 2·255·64 is the most that fits. The
activations keep all of their 8 bits, as they have the outliers."""

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' Llama and its many descendants call with one input (cross-attention has two)."""

_TINY = 1e-20
"""Scale of an all-zero row; not 0, which would give NaN."""


def supported() -> bool:
    """Whether this build of torch has the kernels."""
    return any(engine in torch.backends.quantized.supported_engines for engine in _ENGINES)


class Int8Linear(torch.nn.Module):
    """Drop-in for `torch.nn.Linear`, float32 in and out, inference on CPU only.

    ``y = s_x · (W_q (x / s_x)) + b`` with ``s_x = max|x|`` of each token and weights
    ``W ≈ s_w · W_q``, ``W_q ∈ [−64, 64]``, a scale per output channel.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]`` or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        self.out_features, self.in_features = weight.shape
        scales = (weight.abs().amax(dim=1) / _WEIGHT_LEVELS).clamp_min(_TINY)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # torch announces that its quantized tensors may go one day
            warnings.simplefilter("ignore")
            quantized = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self._packed = _prepack(quantized)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().float(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        rows = x.reshape(-1, self.in_features)
        # the largest absolute value; four times faster than a norm, and half the memory traffic of abs()
        scale = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_()).clamp_min_(_TINY)
        out: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / scale, 1.0 / _ACTIVATION_LEVELS, _ACTIVATION_LEVELS + 1, self._packed
        )
        out = out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale)
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _prepack(weight: torch.Tensor) -> torch.ScriptObject:
    """Bring quantized weights into the kernel's layout, without leaving torch's engine setting changed."""
    backends = torch.backends.quantized
    engine = next((e for e in _ENGINES if e in backends.supported_engines), None)
    if engine is None:
        raise BackboneError("this build of torch has no int8 kernels (FBGEMM); use dtype float32 or bfloat16")
    before = backends.engine
    backends.engine = "fbgemm" if "fbgemm" in backends.supported_engines else engine
    try:
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(weight, None)
    finally:
        backends.engine = before
    return packed


class _Joint:
    """Layers that are given the same input, computed as one when the first of them is called.

    The input is scaled and quantized once and the kernel has one larger product; the values are the very
    same, since every row has its own scale and every output channel, too.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        self._linear = Int8Linear(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None)
        self._sizes = [layer.out_features for layer in layers]
        self._input: torch.Tensor | None = None
        self._waiting: dict[int, torch.Tensor] = {}

    def output(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """What layer `i` makes of `x`; what the others make of it is kept until they are called."""
        if x is not self._input or i not in self._waiting:
            self._input = x
            self._waiting = dict(enumerate(self._linear(x).split(self._sizes, dim=-1)))
        out = self._waiting.pop(i)
        if not self._waiting:
            self._input = None
        return out


class Int8Part(torch.nn.Module):
    """One layer of a `_Joint`, in the place of its `torch.nn.Linear`."""

    def __init__(self, joint: _Joint, i: int) -> None:
        super().__init__()
        self._joint, self._i = joint, i

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        return self._joint.output(x, self._i)


def quantize_linears(model: torch.nn.Module) -> None:
    """Replace every linear layer of `model` in place, the output layer included, embeddings not."""
    joined = () if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else _JOINED
    for module in list(model.modules()):
        linears = {name: child for name, child in module.named_children() if type(child) is torch.nn.Linear}
        for names in joined:
            layers = [linears[name] for name in names if name in linears]
            if len(layers) == len(names) and len({(n.in_features, n.bias is None) for n in layers}) == 1:
                joint = _Joint(layers)
                for i, name in enumerate(names):
                    setattr(module, name, Int8Part(joint, i))
                    del linears[name]
        for name, child in linears.items():
            setattr(module, name, Int8Linear(child.weight, child.bias))
