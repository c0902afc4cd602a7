"""A forecaster for one sensor that is served event by event: quantiles of the next value and an anomaly score.

    value -> normaliser -> GRU layers -> quantiles of the next value -> calibration -> surprise -> score

Everything between two events is state: the normaliser, the GRU, the forecast that waits for its value, how wide the
forecasts must be, and the score's history. So any cut of a stream into chunks gives the same outputs, and no stream
sees another. This module does not decide what is an alert: that is `hysteresis` and a task.

Shape legend: B rows, T events of the longest row, C columns, I features, L layers, H hidden, Q quantiles.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.contract import Outputs, Signature, State
from models.sensor import normalizer, score
from models.sensor.network import LEVELS, MEDIAN, QuantileNetwork, anchor_offsets
from models.sensor.surprise import surprise

LARGEST = 1e15
"""A value of larger size, like NaN or infinity, is taken as missing: its square must fit a float32."""
_CALIBRATION = 0.02  # how far one event moves the logarithm of the forecasts' width
_WIDEST = 2.0
_OUTSIDE = 0.2  # share of values that lie outside the 80 % band when the width is right
_LOW, _HIGH = LEVELS.index(0.1), LEVELS.index(0.9)


class Forecaster(nn.Module):
    """Quantiles of the next value of column 0, and how improbable each value was; a StreamModel for events.

    columns: C; column 0 is forecast and scored, the others (time of day, load, ...) are covariates. hidden: H.
    layers: L. Any value may be NaN, that is, missing: statistics are held, the network is told, the score is 0.

    Outputs, one frame per event: "quantiles" (B, T, Q) of the next value at `levels`, in the input's unit; "expected"
    (B, T, Q), the quantiles that had been forecast for this event before it was seen (a stream's first value expects
    itself); "score" (B, T) in [0, 1], 0 during the first `score.WARM_UP_EVENTS` values; "lengths" (B,). Events beyond
    a row's length are zero.

    State leaves, with "input." those of `normalizer`, with "score." those of `score`; "hidden" (B, L, H); "forecast"
    (B, Q), offsets of the next value from the last one in units; "width" (B,), the logarithm by which the quantiles
    are spread about the median so that the 80 % band holds 80 % (in the spirit of Gibbs & Candes 2021).
    """

    def __init__(self, columns: int = 1, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        if min(columns, hidden, layers) < 1:
            raise ValueError(f"columns, hidden and layers must be at least 1, got {columns}, {hidden}, {layers}")
        self.columns, self.hidden, self.layers = columns, hidden, layers
        self.network = QuantileNetwork(columns, hidden, layers)

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantile levels, rising, the median in the middle."""
        return LEVELS

    @property
    def signature(self) -> Signature:
        """One frame per event, without latency."""
        return Signature(
            input="events",
            rate_hz=0,
            channels=self.columns,
            chunk_samples=1,
            samples_per_frame=1,
            latency_samples=0,
            outputs=("quantiles", "expected", "score"),
            missing=True,
        )

    def init_state(self, batch: int) -> State:
        """Streams that have seen nothing."""
        device = self.network.shift.weight.device
        state = {f"input.{k}": v for k, v in normalizer.init_state(batch, self.columns, device).items()}
        state |= {f"score.{k}": v for k, v in score.init_state(batch, device).items()}
        state["hidden"] = torch.zeros(batch, self.layers, self.hidden, device=device)
        state["forecast"] = torch.zeros(batch, len(LEVELS), device=device)
        state["width"] = torch.zeros(batch, device=device)
        return state

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """Advance every row by its own events.

        x: (B, T, C), NaN where missing; lengths: (B,) int64 with 0 <= lengths <= T. Raises ValueError for another C.
        """
        if x.dim() != 3 or x.shape[2] != self.columns:
            raise ValueError(f"x must be (B, T, {self.columns}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            return self._nothing(lengths), {name: leaf.clone() for name, leaf in state.items()}
        live = torch.arange(x.shape[1], device=x.device).unsqueeze(0) < lengths.unsqueeze(1)  # (B, T)
        x = torch.where(live.unsqueeze(2) & (x.abs() <= LARGEST), x, torch.nan)
        track, inputs = _normalised(x, live, _part(state, "input."))
        top, after = self.network(track.features, state["hidden"])
        made = self.network.offsets(top, anchor_offsets(track.features[:, :, 0]))  # (B, T, Q)
        offsets = torch.cat([state["forecast"].unsqueeze(1), made], dim=1)  # (B, T + 1, Q): before each event
        scores, widths, scored = _scored(x[:, :, 0], offsets, track, state)
        quantiles = track.origin.unsqueeze(2) + track.unit.unsqueeze(2) * _spread(offsets, widths)  # (B, T + 1, Q)
        begins = (track.seen == 0) & torch.isfinite(x[:, :, 0])  # (B, T): nothing was forecast for a first value
        expected = torch.where(begins.unsqueeze(2), x[:, :, :1], quantiles[:, :-1])
        outputs = {
            "quantiles": torch.where(live.unsqueeze(2), quantiles[:, 1:], 0.0),
            "expected": torch.where(live.unsqueeze(2), expected, 0.0),
            "score": scores,
            "lengths": lengths.clone(),
        }
        new_state = {f"input.{k}": v for k, v in inputs.items()} | {f"score.{k}": v for k, v in scored.items()}
        new_state["hidden"] = _at(torch.cat([state["hidden"].unsqueeze(1), after], dim=1), lengths)
        new_state["forecast"] = _at(offsets, lengths)
        new_state["width"] = _at(widths, lengths)
        return outputs, new_state

    def _nothing(self, lengths: Tensor) -> Outputs:
        empty = self.network.shift.weight.new_zeros(len(lengths), 0, len(LEVELS))
        return {"quantiles": empty, "expected": empty.clone(), "score": empty[:, :, 0], "lengths": lengths.clone()}


class _Track(NamedTuple):
    """What the normaliser gave. features: (B, T, C, I) after each event; of column 0, before each event and, where one
    longer, after the last: origin (B, T + 1) the last value, unit (B, T + 1), seen (B, T) how many values."""

    features: Tensor
    origin: Tensor
    unit: Tensor
    seen: Tensor


def _normalised(x: Tensor, live: Tensor, state: State) -> tuple[_Track, State]:
    """Run the normaliser over all events: x (B, T, C) with NaN where missing, live (B, T)."""
    features: list[Tensor] = []
    seen: list[Tensor] = []
    origin, unit = [state["last"][:, 0]], [normalizer.unit_of(state)[:, 0]]
    for index in range(x.shape[1]):
        seen.append(state["seen"][:, 0])
        made, state = normalizer.advance(x[:, index], live[:, index], state)
        features.append(torch.where(live[:, index, None, None], made, 0.0))
        origin.append(state["last"][:, 0])
        unit.append(normalizer.unit_of(state)[:, 0])
    stacked = torch.stack(features, dim=1)
    return _Track(stacked, torch.stack(origin, 1), torch.stack(unit, 1), torch.stack(seen, 1)), state


def _scored(x: Tensor, offsets: Tensor, track: _Track, state: State) -> tuple[Tensor, Tensor, State]:
    """Calibrate the forecasts and score the values: scores (B, T), widths (B, T + 1), the score's state.

    x: (B, T), NaN where missing. The second value of a stream is the first that is judged: one value has no unit.
    """
    present = torch.isfinite(x)
    x = torch.where(present, x, track.origin[:, :-1])
    target = (x - track.origin[:, :-1]) / track.unit[:, :-1]  # (B, T)
    judged = present & (track.seen >= 2)
    width, inner = state["width"], _part(state, "score.")
    scores: list[Tensor] = []
    widths = [width]
    for index in range(x.shape[1]):
        quantiles = _spread(offsets[:, index], width)
        digits = torch.where(judged[:, index], surprise(target[:, index], quantiles), 0.0)
        score_now, inner = score.advance(x[:, index], digits, present[:, index], inner)
        scores.append(score_now)
        width = torch.where(judged[:, index], _recalibrated(target[:, index], quantiles, width), width)
        widths.append(width)
    return torch.stack(scores, dim=1), torch.stack(widths, dim=1), inner


def _spread(offsets: Tensor, width: Tensor) -> Tensor:
    """Quantiles (..., Q) drawn away from, or towards, their median by exp(width), width (...)."""
    median = offsets[..., MEDIAN : MEDIAN + 1]
    return median + (offsets - median) * width.exp().unsqueeze(-1)


def _recalibrated(target: Tensor, quantiles: Tensor, width: Tensor) -> Tensor:
    """The width (B,) after a value: wider if it lay outside the 80 % band, a little narrower if inside.

    The edge of the band is a ramp, not a jump, so that a rounding error stays a rounding error.
    """
    low, high = quantiles[..., _LOW], quantiles[..., _HIGH]
    ramp = (0.1 * (high - low)).clamp(min=1e-4)
    outside = (0.5 + torch.maximum(low - target, target - high) / ramp).clamp(0.0, 1.0)
    return (width + _CALIBRATION * (outside - _OUTSIDE)).clamp(-_WIDEST, _WIDEST)


def _part(state: State, prefix: str) -> State:
    """The leaves under a prefix, without it."""
    return {name.removeprefix(prefix): leaf for name, leaf in state.items() if name.startswith(prefix)}


def _at(track: Tensor, place: Tensor) -> Tensor:
    """track: (B, T + 1, ...), place: (B,) -> (B, ...), each row at its own place."""
    return track[torch.arange(len(place), device=place.device), place]
