"""Linear layers with 8-bit weights for CPUs, on oneDNN, which ships with torch.

Weights are quantized once, per output channel; activations as they come, per token. Torch's own dynamic
quantization takes one scale for the whole batch: then one token with a large activation (the first of a
Llama or Qwen sequence has values in the thousands) blurs all others, and a completion depends on what else
is in the batch. Here each token is divided by its own largest absolute value first, so neither happens.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["Int8Linear", "supported"]

_ACTIVATION_LEVELS = 127
_TINY = 1e-20
"""Scale of an all-zero row; not 0, which would give NaN."""


def _weight_levels() -> int:
    """Without VNNI instructions products are added in pairs in 16 bits: 2·255·64 is the most that fits."""
    return 127 if torch.cpu._is_vnni_supported() else 64


@functools.cache
def supported() -> bool:
    """Whether this build of torch has the kernels, tried on a small product."""
    x = torch.ones(3, 16)
    try:
        with torch.inference_mode():
            return bool(torch.allclose(Int8Linear(torch.ones(8, 16), None)(x), torch.full((3, 8), 16.0), rtol=1e-3))
    except (RuntimeError, AttributeError, TypeError):  # no such operator, or not on this processor
        return False


class Int8Linear(torch.nn.Module):
    """Drop-in for `torch.nn.Linear`, inference on CPU only; the output has the type of the input.

    ``y = s_x · s_w · (W_q x_q) + b`` with ``x_q = round(x / s_x)``, ``s_x = max|x| / 127`` of each token, and
    ``W ≈ s_w · W_q``, a scale per output channel.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]`` or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        self.out_features, self.in_features = weight.shape
        self._scales = (weight.abs().amax(dim=1) / _weight_levels()).clamp_min(_TINY)
        quantized = torch.round(weight / self._scales[:, None]).to(torch.int8)
        self._packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(quantized, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().float(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """Packed, so for its type only: T5 leaves the activations before an int8 layer as they are."""
        return self._packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        rows = x.reshape(-1, self.in_features)
        # the largest absolute value; four times faster than a norm, and half the memory traffic of abs()
        largest = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_())
        scale = (largest.float() / _ACTIVATION_LEVELS).clamp_min_(_TINY)
        quantized = torch.round(rows / scale).to(torch.int8)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized, 1.0, 0, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
