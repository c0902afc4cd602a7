"""Generated sensor signals to train on: periods, trends, steps, noise and bursts, in any unit.

Every signal is a sum of parts drawn at random, seen at a random scale and offset, rounded at times as real sensors
round, and at times with missing values. Real recordings alone would teach a forecaster their own rhythm only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
_PERIODS_EVENTS = (12, 24, 24, 48, 60, 96, 144, 168, 288, 288, 336)  # hours, half hours, minutes, five minutes, weeks


def generate(rng: np.random.Generator, events: int) -> Signal:
    """One signal of `events` values; NaN where a value is missing."""
    parts: list[Callable[[np.random.Generator, int], Signal]] = [_period, _walk, _pull, _steps, _bursts, _spikes, _saw]
    chance = (0.55, 0.25, 0.35, 0.25, 0.15, 0.2, 0.15)
    y = _noise(rng, events) * 10 ** rng.uniform(-2.5, 0.3)
    for part, share in zip(parts, chance, strict=True):
        if rng.random() < share:
            y = y + part(rng, events) * 10 ** rng.uniform(-0.7, 0.7)
    if rng.random() < 0.15:
        y = np.exp(np.clip(y / max(float(y.std()), 1e-9), -5, 5))  # skewed, as counts and loads are
    y = y * 10 ** rng.uniform(-3, 5) + rng.choice([0.0, 1.0]) * rng.normal() * 10 ** rng.uniform(-1, 5)
    if rng.random() < 0.25:
        step = max(float(np.nanstd(y)), 1e-9) * 10 ** rng.uniform(-2, 0)
        y = np.round(y / step) * step
    if rng.random() < 0.3:
        y[rng.random(events) < rng.uniform(0, 0.15)] = np.nan
    made: Signal = np.asarray(y, dtype=np.float64)
    return made


def _noise(rng: np.random.Generator, events: int) -> Signal:
    kind = rng.integers(3)
    if kind == 0:
        return rng.normal(size=events)
    if kind == 1:
        return rng.standard_t(3, size=events)
    return rng.gamma(rng.uniform(0.5, 3), size=events)


def _period(rng: np.random.Generator, events: int) -> Signal:
    """A daily shape of a few harmonics or a square, with a weekly change of height at times."""
    period = float(rng.choice(_PERIODS_EVENTS)) if rng.random() < 0.7 else rng.uniform(6, 400)
    phase = (np.arange(events) + rng.uniform(0, period)) / period
    if rng.random() < 0.2:
        y = (phase % 1.0 < rng.uniform(0.1, 0.9)).astype(np.float64)
    else:
        y = np.zeros(events)
        for harmonic in range(1, rng.integers(2, 6)):
            y += rng.normal() / harmonic * np.sin(2 * np.pi * (harmonic * phase + rng.random()))
    if rng.random() < 0.5:
        y = y * np.where(np.floor(phase) % 7 < 5, 1.0, rng.uniform(0.2, 0.9))
    return y


def _walk(rng: np.random.Generator, events: int) -> Signal:
    y = np.cumsum(rng.normal(size=events))
    return np.asarray(y / max(float(y.std()), 1e-9), dtype=np.float64)


def _pull(rng: np.random.Generator, events: int) -> Signal:
    """A first-order process that returns to its mean (AR 1)."""
    keep = 1 - 10 ** rng.uniform(-2.5, -0.3)
    drive = rng.normal(size=events) * np.sqrt(1 - keep**2)
    y = np.empty(events)
    level = rng.normal()
    for index in range(events):
        level = keep * level + drive[index]
        y[index] = level
    return y


def _steps(rng: np.random.Generator, events: int) -> Signal:
    at = rng.random(events) < 10 ** rng.uniform(-3.5, -1.7)
    return np.cumsum(np.where(at, rng.normal(size=events), 0.0))


def _bursts(rng: np.random.Generator, events: int) -> Signal:
    y = np.zeros(events)
    for _ in range(rng.integers(1, 12)):
        start, length = int(rng.integers(events)), int(10 ** rng.uniform(0.5, 2.3))
        end = min(events, start + length)
        y[start:end] += np.abs(rng.normal(size=end - start)) * rng.uniform(0.5, 3)
    return y


def _spikes(rng: np.random.Generator, events: int) -> Signal:
    at = rng.random(events) < 10 ** rng.uniform(-2.5, -0.7)
    return np.where(at, rng.gamma(2.0, size=events), 0.0)


def _saw(rng: np.random.Generator, events: int) -> Signal:
    """Fills slowly, empties at once: a disk, a buffer, a battery."""
    period = rng.uniform(10, 500)
    y = np.asarray((np.arange(events) + rng.uniform(0, period)) / period % 1.0, dtype=np.float64)
    return y if rng.random() < 0.5 else 1.0 - y
