"""Linear layers for CPUs, on oneDNN, with weights that are packed once.

`torch.nn.Linear` brings its weights into the kernel's layout at every call, which costs more than the
product itself where only some dozens of rows are multiplied: a decoding step is one and a half to two times
slower for it. Here they are stored in that layout. The kernel is the one that torch's compiler uses for inference.

A processor without bfloat16 arithmetic computes a model in bfloat16 here, too, in float32 and rounded where bfloat16
would be: of a product both factors and the result are, its sum is in float32 in either case.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["PackedLinear", "RoundedLinear", "pack", "packs", "supported"]


def packs(dtype: torch.dtype) -> bool:
    """Whether `pack` has something better than torch's own layers for a model in `dtype` on this processor."""
    return supported(dtype) or (dtype == torch.bfloat16 and supported(torch.float32))


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
    """The layer of that weight ``[out, in]`` and bias ``[out]``, of a type that `packs` is true of.

    The type is the layer's own: T5 in bfloat16 keeps some of its layers in float32.
    """
    return (PackedLinear if supported(weight.dtype) else RoundedLinear)(weight, bias)


@functools.cache
def supported(dtype: torch.dtype) -> bool:
    """Whether this build of torch packs weights of `dtype` for this processor, tried on a small product."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x, bias = (
        torch.randn(size, generator=generator, dtype=torch.float32).to(dtype) for size in ((48, 32), (5, 32), (48,))
    )
    try:
        with torch.inference_mode():
            got = PackedLinear(weight, bias)(x)
    except (RuntimeError, AttributeError, TypeError):  # no such operator, or not on this processor
        return False
    wanted = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    rtol, atol = (0.02, 0.1) if dtype == torch.bfloat16 else (1e-4, 1e-4)
    return bool(torch.allclose(got.float(), wanted, rtol=rtol, atol=atol))


class PackedLinear(torch.nn.Module):
    """Drop-in for `torch.nn.Linear`, inference on CPU only.

    Args:
        weight: ``[out, in]``, float32 or bfloat16.
        bias: ``[out]``, of the same type, or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """Packed, so for its type only: T5 brings its activations to that of the layer that follows."""
        return self._packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class RoundedLinear(PackedLinear):
    """The same in bfloat16 on a processor that has only float32: weights take twice the memory.

    Args:
        weight: ``[out, in]``, bfloat16.
        bias: ``[out]``, bfloat16, or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.detach().float(), None if bias is None else bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``, bfloat16 both."""
        return super().forward(x.float()).bfloat16()
