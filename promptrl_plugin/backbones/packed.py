"""Linear layers in bfloat16 for CPUs, on oneDNN, with weights that are packed once.

`torch.nn.Linear` brings its weights into the kernel's layout at every call, which costs more than the
product itself where only some dozens of rows are multiplied: a decoding step is one and a half to two times
slower for it. Here they are stored in that layout. The kernel is the one that torch's compiler uses for inference.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["PackedLinear", "supported"]


@functools.cache
def supported() -> bool:
    """Whether this build of torch packs weights for this processor, tried on a small product."""
    generator = torch.Generator().manual_seed(0)
    weight, x, bias = (
        torch.randn(size, generator=generator, dtype=torch.float32).bfloat16() for size in ((48, 32), (5, 32), (48,))
    )
    try:
        with torch.inference_mode():
            got = PackedLinear(weight, bias)(x)
    except (RuntimeError, AttributeError, TypeError):  # no such operator, or not on this processor
        return False
    wanted = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    return bool(torch.allclose(got.float(), wanted, rtol=0.02, atol=0.1))


class PackedLinear(torch.nn.Module):
    """Drop-in for `torch.nn.Linear` in bfloat16, inference on CPU only.

    Args:
        weight: ``[out, in]``, bfloat16.
        bias: ``[out]``, bfloat16, or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
