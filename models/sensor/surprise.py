"""How improbable a value was under the quantiles that had been forecast for it.

Between the quantiles the distribution is taken as piecewise uniform, beyond the outermost ones as exponential with the
slope of the last two; so the tail probability is known for any value, also far outside. This module knows nothing of
time: it compares one value with one forecast.

Shape legend: ... any rows, Q quantiles.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from models.sensor.network import LEVELS

MOST_DIGITS = 16.0
"""The largest surprise: tail probabilities are not believed below 1e-16."""
_TAIL = LEVELS[0]
_TAIL_DIGITS = -math.log10(2 * _TAIL)  # surprise at the outermost quantiles
_DECADES = math.log10(LEVELS[2] / LEVELS[0])  # powers of ten between the quantiles that give the tail's slope
_NARROWEST = 1e-3  # in units: what two quantiles are apart at least


def surprise(value: Tensor, quantiles: Tensor) -> Tensor:
    """Minus the decimal logarithm of the two-sided tail probability: 0 at the median, 1.7 at the 1 % and 99 % levels.

    value: (...); quantiles: (..., Q) rising, in the same unit. Returns (...) in [0, MOST_DIGITS].
    """
    below = _beyond(quantiles[..., 0] - value, quantiles[..., 2] - quantiles[..., 0])
    above = _beyond(value - quantiles[..., -1], quantiles[..., -1] - quantiles[..., -3])
    inside = -torch.log10((2 * torch.minimum(*_tails(value, quantiles))).clamp(min=2 * _TAIL, max=1.0))
    outside = torch.maximum(below, above)
    return torch.where(outside > 0, _TAIL_DIGITS + outside, inside).clamp(0.0, MOST_DIGITS)


def _beyond(distance: Tensor, slope: Tensor) -> Tensor:
    """Powers of ten that an exponential tail falls over `distance`; negative on the near side."""
    return distance * _DECADES / slope.clamp(min=_NARROWEST)


def _tails(value: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Probability below and above a value that lies between the outermost quantiles."""
    gaps = quantiles.diff(dim=-1).clamp(min=_NARROWEST)
    filled = ((value.unsqueeze(-1) - quantiles[..., :-1]) / gaps).clamp(0.0, 1.0)
    below = _TAIL + (filled * _between(quantiles.device, quantiles.dtype)).sum(-1)
    return below, 1.0 - below


@lru_cache(maxsize=8)
def _between(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(Q - 1,): probability between neighbouring levels; made once, so that a step copies nothing to its device."""
    return torch.tensor(LEVELS, device=device, dtype=dtype).diff()
