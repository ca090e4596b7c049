"""Replacing a model's linear layers by faster ones that compute the same.

What replaces them is made by `packed.pack` or is an `int8.Int8Linear`; this module finds the layers, and joins
those that read one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["JoinedPart", "MakeLinear", "replace_linears"]

MakeLinear = Callable[[torch.Tensor, torch.Tensor | None], torch.nn.Module]
"""Makes a layer of weight ``[out, in]`` and bias ``[out]`` or None."""

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' Llama and its many descendants call with one input (cross-attention has two)."""


def replace_linears(model: torch.nn.Module, make: MakeLinear) -> None:
    """Replace every linear layer of `model` in place, the output layer included, embeddings not."""
    joined = () if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else _JOINED
    for module in list(model.modules()):
        linears = {name: child for name, child in module.named_children() if type(child) is torch.nn.Linear}
        for names in joined:
            layers = [linears[name] for name in names if name in linears]
            if len(layers) == len(names) and len({(n.in_features, n.bias is None) for n in layers}) == 1:
                joint = _Joint(layers, make)
                for i, name in enumerate(names):
                    setattr(module, name, JoinedPart(joint, i))
                    del linears[name]
        for name, child in linears.items():
            setattr(module, name, make(child.weight, child.bias))


class _Joint:
    """Layers that are given the same input, computed as one when the first of them is called.

    The kernel has one larger product; the values are the very same, since no output channel knows of another.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear], make: MakeLinear) -> None:
        biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        self._linear = make(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None)
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


class JoinedPart(torch.nn.Module):
    """One layer of a `_Joint`, in the place of its `torch.nn.Linear`."""

    def __init__(self, joint: _Joint, i: int) -> None:
        super().__init__()
        self._joint, self._i = joint, i

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, out]``."""
        return self._joint.output(x, self._i)
