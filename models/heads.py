"""What stands on a recurrent stack: distributions of the next value, and classes.

Each head is one linear map of what the stack gives, (..., H), a distribution by it, and the loss that it is trained by.
CTC's head is that of `models.speech`.

Shape legend: H hidden units, Q quantile levels, K components, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_NARROWEST = 1e-4


class Quantiles(nn.Module):
    """Quantiles that cannot cross: the middle one and positive gaps to both sides.

    levels: Q of them, rising, an odd number. R. Koenker and G. Bassett, Regression Quantiles, 1978.
    """

    def __init__(self, hidden: int, levels: Sequence[float] = (0.1, 0.5, 0.9)) -> None:
        super().__init__()
        if len(levels) % 2 == 0 or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError(f"an odd number of rising levels between 0 and 1 is needed: {tuple(levels)}")
        self.levels = tuple(levels)
        self.values = nn.Linear(hidden, len(levels))

    def forward(self, top: Tensor) -> Tensor:
        """top: (..., H). Returns (..., Q), rising."""
        raw, middle = self.values(top), len(self.levels) // 2
        median = raw[..., middle : middle + 1]
        below = functional.softplus(raw[..., :middle]).flip(-1).cumsum(-1).flip(-1)
        above = functional.softplus(raw[..., middle + 1 :]).cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)

    def loss(self, quantiles: Tensor, target: Tensor) -> Tensor:
        """The pinball loss of each level, (..., Q). target: (...)."""
        return pinball(target, quantiles, self.levels)


def pinball(target: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """The pinball loss of each level: target (...), quantiles (..., Q), in the target's unit; returns (..., Q)."""
    error, at = target[..., None] - quantiles, quantiles.new_tensor(levels)
    return torch.maximum(at * error, (at - 1.0) * error)


class Normal(NamedTuple):
    """A normal distribution of each value: mean and standard deviation, (...)."""

    mean: Tensor
    deviation: Tensor


class Gaussian(nn.Module):
    """A normal distribution, its deviation above 1e-4.

    D. Nix and A. Weigend, Estimating the Mean and Variance of the Target Probability Distribution, 1994.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.values = nn.Linear(hidden, 2)

    def forward(self, top: Tensor) -> Normal:
        """top: (..., H)."""
        mean, raw = self.values(top).unbind(-1)
        return Normal(mean, functional.softplus(raw) + _NARROWEST)

    def loss(self, said: Normal, target: Tensor) -> Tensor:
        """The negative logarithm of the density at the target (...)."""
        return -_log_density(said, target)


class Mixed(NamedTuple):
    """A mixture of normal distributions of each value: logarithms of weights, means and deviations, (..., K)."""

    log_weights: Tensor
    parts: Normal

    @property
    def mean(self) -> Tensor:
        """Of the mixture, (...)."""
        return (self.log_weights.exp() * self.parts.mean).sum(-1)


class Mixture(nn.Module):
    """K normal distributions with weights. C. Bishop, Mixture Density Networks, 1994."""

    def __init__(self, hidden: int, components: int) -> None:
        super().__init__()
        self.values = nn.Linear(hidden, 3 * components)

    def forward(self, top: Tensor) -> Mixed:
        """top: (..., H)."""
        weight, mean, raw = self.values(top).chunk(3, dim=-1)
        return Mixed(weight.log_softmax(-1), Normal(mean, functional.softplus(raw) + _NARROWEST))

    def loss(self, said: Mixed, target: Tensor) -> Tensor:
        """The negative logarithm of the density at the target (...)."""
        return -torch.logsumexp(said.log_weights + _log_density(said.parts, target[..., None]), dim=-1)


class Classes(nn.Module):
    """Classes of each frame (tagging), or of a whole signal by what the stack gave last (`last`)."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.values = nn.Linear(hidden, classes)

    def forward(self, top: Tensor) -> Tensor:
        """top: (..., H). Logits (..., N)."""
        logits: Tensor = self.values(top)
        return logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The cross entropy of each, (...). target: (...) int64."""
        return functional.cross_entropy(logits.movedim(-1, 1), target, reduction="none")


def last(top: Tensor, lengths: Tensor) -> Tensor:
    """Each row's last frame: top (B, F, H), lengths (B,) at least 1; returns (B, H)."""
    return top[torch.arange(len(top), device=top.device), lengths - 1]


def _log_density(of: Normal, at: Tensor) -> Tensor:
    return -0.5 * ((at - of.mean) / of.deviation) ** 2 - of.deviation.log() - 0.5 * math.log(2 * math.pi)
