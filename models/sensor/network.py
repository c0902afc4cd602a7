"""The trained part of the forecaster: features in, quantiles of the next value out.

A stack of GRU layers reads the normalised features; the head says where the next value lies as offsets from the
present one, in the stream's own unit. A GRU's output is its state, so the state after any number of events can be
picked out of the outputs and rows of different lengths can share one call. Trained by pinball loss (Koenker & Bassett
1978) with the arrangement of Wen et al. 2017 (MQ-RNN): all quantiles from one head, here made so that they cannot
cross. This module knows nothing of anomalies, of missing values or of how features are made.

Shape legend: B rows, T events of the longest row, C columns, I features, K trends, H hidden, L layers, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import heads
from models.sensor.normalizer import FEATURES, TREND_EVENTS

LEVELS: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""The quantile levels; the middle one is the median."""
MEDIAN = LEVELS.index(0.5)
ANCHORS = 3 + len(TREND_EVENTS)
"""Simple forecasts that the median is mixed from: last value, last value plus last change, the trends, the level."""


class QuantileNetwork(nn.Module):
    """GRU layers and a head of quantile offsets.

    columns: C, of which column 0 is forecast. hidden: H. layers: L. In bfloat16 the layers and the head's matrices
    round; what goes in and comes out stays float32.
    """

    def __init__(self, columns: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [columns * FEATURES] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.GRU(width, hidden, batch_first=True) for width in widths)
        self.mix = nn.Linear(hidden, ANCHORS)
        self.shift = nn.Linear(hidden, 1)
        self.spread = nn.Linear(hidden, 1)
        self.gaps = nn.Linear(hidden, len(LEVELS) - 1)

    def forward(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """features: (B, T, C, I) with T >= 1; hidden: (B, L, H) before the first event.

        Returns the head's input (B, T, H) and every layer's state after every event (B, T, L, H).
        """
        dtype = self.shift.weight.dtype
        y = features.flatten(2).to(dtype)  # (B, T, C I)
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            y, _ = layer(y, hidden[:, index].unsqueeze(0).to(dtype).contiguous())
            states.append(y)
        return y.float(), torch.stack(states, dim=2).float()

    def offsets(self, top: Tensor, anchors: Tensor) -> Tensor:
        """Quantiles of the next value minus the present one, in units, rising along the last dimension.

        top: (..., H); anchors: (..., A) from `anchor_offsets`. Returns (..., Q).
        """
        top = top.to(self.shift.weight.dtype)
        mixed = (self.mix(top).float().softmax(-1) * anchors).sum(-1, keepdim=True)
        median = mixed + torch.sinh(self.shift(top).float().clamp(-6.0, 6.0))
        width = torch.exp(self.spread(top).float().clamp(-8.0, 5.0))
        gaps = functional.softplus(self.gaps(top).float()) * width  # (..., Q - 1)
        below = -gaps[..., :MEDIAN].flip(-1).cumsum(-1).flip(-1)
        above = gaps[..., MEDIAN:].cumsum(-1)
        return torch.cat([median + below, median, median + above], dim=-1)


def anchor_offsets(features: Tensor) -> Tensor:
    """The anchors as offsets from the last value in units (..., A), out of column 0's features (..., I)."""
    moved = features[..., 0].sinh()
    to_trends = features[..., 1 : 1 + len(TREND_EVENTS)].sinh()  # (..., K)
    scale = (features[..., 2 + len(TREND_EVENTS)] + 1.0).expm1().clamp(min=1.0)  # scale / unit, at least the unit
    to_level = features[..., 1 + len(TREND_EVENTS)].sinh() * scale
    parts = [torch.zeros_like(moved), moved, -to_level]
    return torch.cat([torch.stack(parts, dim=-1), -to_trends], dim=-1)


def pinball(target: Tensor, quantiles: Tensor) -> Tensor:
    """Pinball loss of every level: target (...), quantiles (..., Q) -> (..., Q)."""
    return heads.pinball(target, quantiles, LEVELS)
