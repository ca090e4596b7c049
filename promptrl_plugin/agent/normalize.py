"""Running normalisation of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RunningNormalizer"]


class RunningNormalizer(nn.Module):
    """Standardises each feature by the running mean and standard deviation of what it has seen.

    Moments are kept in float64 and merged batch by batch (Chan, Golub & LeVeque 1979, "Updating
    formulae and a pairwise algorithm for computing sample variances"; Welford's method for batches).

    Two kinds of features would be harmed by plain standardising. A flag that is rarely 1 would jump
    to tens of standard deviations, so a feature whose values have all been 0 or 1 passes unchanged.
    A feature that was constant in training would explode at its first other value, so the standard
    deviation has a floor.

    The statistics are buffers of the module: they are saved, loaded and frozen with the policy.

    Args:
        size: Number of features.
        clip: Normalised features are clipped to ``[-clip, clip]``.
        min_std: Floor of the standard deviation, in the features' own units.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    binary: Tensor

    def __init__(self, size: int, clip: float, min_std: float) -> None:
        super().__init__()
        self.clip, self.min_std = clip, min_std
        self.frozen = False
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(size, dtype=torch.float64))  # sum of squared deviations
        self.register_buffer("binary", torch.ones(size, dtype=torch.bool))

    @property
    def std(self) -> Tensor:
        """Population standard deviation before the floor, float64 ``[size]``; 0 where nothing was seen."""
        return (self.m2 / self.count.clamp(min=1.0)).sqrt()

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Merge a batch of raw observations ``[n, size]`` into the statistics.

        Raises:
            RuntimeError: The statistics are frozen.
        """
        if self.frozen:
            raise RuntimeError("the observation statistics are frozen; only training may change them")
        batch = observations.to(torch.float64)
        n = batch.shape[0]
        if n == 0:
            return
        batch_mean = batch.mean(dim=0)
        batch_m2 = ((batch - batch_mean) ** 2).sum(dim=0)
        delta = batch_mean - self.mean
        total = self.count + n
        self.mean += delta * (n / total)
        self.m2 += batch_m2 + delta**2 * (self.count * n / total)
        self.count += n
        self.binary &= ((batch == 0.0) | (batch == 1.0)).all(dim=0)

    def freeze(self) -> RunningNormalizer:
        """Refuse further updates, from now on; returns the normaliser."""
        self.frozen = True
        return self

    def forward(self, observations: Tensor) -> Tensor:
        """Normalise raw observations ``[n, size]`` to float32 ``[n, size]``.

        Before the first update they are clipped only.
        """
        raw = observations.to(torch.float64)
        if self.count == 0:
            return raw.clamp(-self.clip, self.clip).to(torch.float32)
        scaled = (raw - self.mean) / self.std.clamp(min=self.min_std)
        return torch.where(self.binary, raw, scaled).clamp(-self.clip, self.clip).to(torch.float32)
