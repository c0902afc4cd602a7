"""An online, robust normaliser: what a network sees of a sensor, whatever its unit, level or noise.

Every statistic forgets exponentially, starts from a stream's own first values and is part of the stream's state. The
module knows nothing of networks or forecasts.

Shape legend: B rows, T events of the longest row, C columns, K = 3 time scales, I features of one column.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.contract import State

TREND_EVENTS = (4.0, 32.0, 256.0)
"""Time constants of the moving averages whose distance from the value is a feature, in events."""
LEVEL_EVENTS = 1024.0
"""Time constant of the level and the scale (mean absolute deviation from the level)."""
STEP_EVENTS = 256.0
"""Time constant of the mean absolute change from event to event."""
WINSOR = 12.0
"""A deviation counts as at most this many times the present mean deviation, once `SETTLED_EVENTS` are there."""
SETTLED_EVENTS = 32.0
FEATURES = 9
"""I: features of one column."""

_SCALE_LEAVES = ("level", "scale", "change", "last")


def init_state(batch: int, columns: int, device: torch.device) -> State:
    """Statistics of streams that have seen nothing: leaves of (B, C), "trend" (B, C, K)."""
    state = {name: torch.zeros(batch, columns, device=device) for name in _SCALE_LEAVES}
    state["seen"] = torch.zeros(batch, columns, device=device)
    state["gap"] = torch.zeros(batch, columns, device=device)
    state["trend"] = torch.zeros(batch, columns, len(TREND_EVENTS), device=device)
    return state


def unit_of(state: State) -> Tensor:
    """(B, C): the stream's own yardstick, its mean absolute change, kept above what float32 can resolve.

    The floors keep a constant or rarely changing stream from being divided by nothing.
    """
    floor = (state["level"].abs() * 1e-4).clamp(min=1e-6)
    return torch.maximum(torch.maximum(state["change"], state["scale"] * 0.05), floor)


def advance(value: Tensor, live: Tensor, state: State) -> tuple[Tensor, State]:
    """One event of every row: the features (B, C, I) after it, and the new state.

    value: (B, C), NaN where missing. live: (B,) bool, false where the row has no event (its state stays bit for bit).
    A missing value changes no statistic; it is seen by the features "present" and "events since the last value".
    """
    present = torch.isfinite(value) & live.unsqueeze(1)  # (B, C)
    first = present & (state["seen"] == 0)
    x = torch.where(present, value, state["last"])
    new = _statistics(x, first, state)
    new = {name: _where(present, leaf, state[name]) for name, leaf in new.items()}
    new["gap"] = torch.where(live.unsqueeze(1), torch.where(present, 0.0, state["gap"] + 1.0), state["gap"])
    return _features(x, present, state, new), new


def _statistics(x: Tensor, first: Tensor, state: State) -> State:
    """The statistics after a value (B, C) in every column; a stream's first value is its level."""
    seen = state["seen"] + 1.0
    level = torch.where(first, x, state["level"])
    last = torch.where(first, x, state["last"])
    settled = seen > SETTLED_EVENTS
    deviation, change = (x - level).abs(), (x - last).abs()
    unit = unit_of(state)
    deviation = torch.where(settled, torch.minimum(deviation, WINSOR * torch.maximum(state["scale"], unit)), deviation)
    change = torch.where(settled, torch.minimum(change, WINSOR * unit), change)
    pairs = (seen - 1.0).clamp(min=1.0)  # deviations and changes exist from the second value on
    slow = _weight(seen, LEVEL_EVENTS)
    rates = torch.stack([_weight(seen, events) for events in TREND_EVENTS], dim=-1)
    trend = torch.where(first.unsqueeze(-1), x.unsqueeze(-1), state["trend"])
    return {
        "seen": seen,
        "last": x,
        "level": level + slow * (x - level).sign() * deviation,
        "scale": state["scale"] + _weight(pairs, LEVEL_EVENTS) * (deviation - state["scale"]),
        "change": state["change"] + _weight(pairs, STEP_EVENTS) * (change - state["change"]),
        "trend": trend + rates * (x.unsqueeze(-1) - trend),
    }


def _features(x: Tensor, present: Tensor, before: State, after: State) -> Tensor:
    """(B, C, I), all of order one: how the value lies to its past, and how much of a past there is."""
    unit = unit_of(after)
    moved = torch.where(before["seen"] == 0, 0.0, (x - before["last"]) / unit)
    to_trend = (x.unsqueeze(-1) - after["trend"]) / unit.unsqueeze(-1)  # (B, C, K)
    to_level = (x - after["level"]) / torch.maximum(after["scale"], unit)
    parts = [
        moved.asinh(),
        *to_trend.asinh().unbind(-1),
        to_level.asinh(),
        (after["scale"] / unit).log1p() - 1.0,
        after["seen"].log1p() / 4.0 - 1.0,
        present.to(x.dtype),
        after["gap"].log1p(),
    ]
    return torch.stack(parts, dim=-1)


def _weight(seen: Tensor, events: float) -> Tensor:
    """The share of a new value: a plain mean first, exponential forgetting later."""
    return torch.clamp(1.0 / seen, min=1.0 / events)


def _where(take: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where `take` (B, C), with any further dimensions of the leaf."""
    return torch.where(take.reshape(*take.shape, *([1] * (new.dim() - 2))), new, old)
