"""An anomaly score in [0, 1] for every value, from the stream's own history alone.

Three questions are asked of each value, and the most surprising answer counts, in decimal digits of improbability:

- level: is the short-term average far from its own long-term distribution? Asked at two time scales, with separate
  spreads above and below, since loads and counts are skewed.
- forecast: have forecasts been worse lately than they usually are? That is the anomaly likelihood of Lavin & Ahmad
  2015 and Ahmad et al. 2017 (a short average of the surprise against its long-term mean and spread).
- range: does the value leave everything seen so far by a clear margin (the "spatial" test of the same authors)?

All of it is state; an event that is missing changes nothing. This module knows nothing of networks.

Shape legend: B rows, S = 2 time scales of the level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.contract import State

LEVEL_FAST_EVENTS = (5.0, 20.0)
"""Time constants of the short averages of the value, in events."""
SURPRISE_FAST_EVENTS = 10.0
"""Time constant of the short average of the surprise."""
LONG_EVENTS = 4000.0
"""Time constant of every long-term mean and spread."""
WARM_UP_EVENTS = 100.0
"""Values a stream must have given before it can score above 0."""
HALF_SCORE_DIGITS = 3.0
"""The score is 0.5 at this many digits: once in a thousand events if all were as assumed."""

_RANGE_DIGITS = 15.0  # digits for leaving the range by its own width: by a fifth of it makes a score of 0.5
_FORECAST_SHARE = 0.35  # forecast errors have heavier tails than the normal law assumed for them: fewer digits
_SURPRISE_CAP = 6.0  # one value counts for at most this much in the averages of the surprise
_LEVEL_WINSOR = 5.0  # deviations beyond so many spreads do not widen the spread further
_SURPRISE_WINSOR = 6.0
_MOST_Z = 30.0
_LEAST_SPREAD = 1e-6  # of the level: what float32 can tell apart
_LEAST_SURPRISE_SPREAD = 1e-3


def init_state(batch: int, device: torch.device) -> State:
    """Histories of streams that have seen nothing."""
    scales = len(LEVEL_FAST_EVENTS)
    by_scale = ("short_level", "long_level", "variance_above", "variance_below")
    state = {name: torch.zeros(batch, scales, device=device) for name in by_scale}
    by_row = ("scored", "lowest", "highest", "short_surprise", "long_surprise")
    state |= {name: torch.zeros(batch, device=device) for name in by_row}
    state["surprise_variance"] = torch.ones(batch, device=device)
    return state


def advance(value: Tensor, surprise: Tensor, take: Tensor, state: State) -> tuple[Tensor, State]:
    """One event of every row: its score (B,) and the new state.

    value: (B,), finite where `take`; surprise: (B,) digits, 0 where there was no forecast; take: (B,) bool, false where
    there is no value: score 0, and the state stays bit for bit.
    """
    scored = state["scored"] + 1.0
    first, warm = state["scored"] == 0, scored > WARM_UP_EVENTS
    level_digits, level = _level(value, first, warm, scored, state)
    forecast_digits, likelihood = _likelihood(surprise.clamp(max=_SURPRISE_CAP), warm, scored, state)
    range_digits, extremes = _range(value, first, state)
    digits = torch.maximum(torch.maximum(level_digits, range_digits), _FORECAST_SHARE * forecast_digits)
    score = torch.where(take & warm, digits / (digits + HALF_SCORE_DIGITS), 0.0)
    new = {"scored": scored, **level, **likelihood, **extremes}
    return score, {name: torch.where(_like(take, leaf), new[name], leaf) for name, leaf in state.items()}


def _level(value: Tensor, first: Tensor, warm: Tensor, scored: Tensor, state: State) -> tuple[Tensor, State]:
    """Digits (B,) of the short averages' distance from the long ones, the worse of the time scales."""
    x, begin = value.unsqueeze(1), first.unsqueeze(1)
    short = torch.where(begin, x, state["short_level"])
    center = torch.where(begin, x, state["long_level"])
    rates = torch.stack([_weight(scored, events) for events in LEVEL_FAST_EVENTS], dim=1)  # (B, S)
    short = short + rates * (x - short)
    distance = short - center
    above = distance > 0
    spread = torch.where(above, state["variance_above"], state["variance_below"]).sqrt()
    least = _LEAST_SPREAD * center.abs() + 1e-9
    digits = _normal_digits((distance.abs() / (spread + least)).clamp(max=_MOST_Z)).amax(dim=1)
    bounded = torch.minimum(distance.abs(), _LEVEL_WINSOR * spread + least)
    bounded = torch.where(warm.unsqueeze(1), bounded, distance.abs())
    slow = _weight(scored, LONG_EVENTS).unsqueeze(1)
    moved = (2.0 * slow).clamp(max=1.0)  # each side learns from about half of the events
    new: State = {"short_level": short, "long_level": center + slow * distance.sign() * bounded}
    for name, side in (("variance_above", above), ("variance_below", ~above)):
        new[name] = torch.where(side, state[name] + moved * (bounded.square() - state[name]), state[name])
    return digits, new


def _likelihood(surprise: Tensor, warm: Tensor, scored: Tensor, state: State) -> tuple[Tensor, State]:
    """Digits (B,) of the short average of the surprise against its own long-term mean and spread."""
    short = state["short_surprise"] + _weight(scored, SURPRISE_FAST_EVENTS) * (surprise - state["short_surprise"])
    distance = short - state["long_surprise"]
    spread = state["surprise_variance"].sqrt() + _LEAST_SURPRISE_SPREAD
    digits = _normal_digits((distance / spread).clamp(0.0, _MOST_Z))
    bounded = torch.where(warm, torch.minimum(distance, _SURPRISE_WINSOR * spread), distance)
    slow = _weight(scored, LONG_EVENTS)
    new = {
        "short_surprise": short,
        "long_surprise": state["long_surprise"] + slow * bounded,
        "surprise_variance": state["surprise_variance"] + slow * (bounded.square() - state["surprise_variance"]),
    }
    return digits, new


def _range(value: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
    """Digits (B,) in proportion to how far the value leaves what has been seen, and the new extremes."""
    low, high = torch.where(first, value, state["lowest"]), torch.where(first, value, state["highest"])
    width = (high - low).clamp(min=1e-9)
    beyond = torch.maximum(value - high, low - value).clamp(min=0.0) / width
    digits = (_RANGE_DIGITS * beyond).clamp(max=_RANGE_DIGITS)
    return digits, {"lowest": torch.minimum(low, value), "highest": torch.maximum(high, value)}


def _normal_digits(z: Tensor) -> Tensor:
    """Minus the decimal logarithm of the normal law's upper tail, less its value in the middle: 0 at z = 0."""
    logarithm: Tensor = torch.special.log_ndtr(-z)
    return -logarithm / math.log(10.0) - math.log10(2.0)


def _weight(scored: Tensor, events: float) -> Tensor:
    """The share of a new value: a plain mean first, exponential forgetting later."""
    return torch.clamp(1.0 / scored, min=1.0 / events)


def _like(take: Tensor, leaf: Tensor) -> Tensor:
    return take.reshape(-1, *([1] * (leaf.dim() - 1)))
