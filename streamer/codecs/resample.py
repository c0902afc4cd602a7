"""A streaming resampler with its state in the open: any rate to any other, chunk by chunk equal to the whole signal.

Output m is the input, low-passed, at input time m * M / L (L/M = rate_out/rate_in in lowest terms):

    y[m] = sum over t < T of h[phase(m), t] * x[first(m) + t],   first(m) = m * M // L - width,  phase(m) = m * M % L

with a Kaiser-windowed sinc h. Before its first and after its last sample the signal is zero, and n samples give
ceil(n * L / M). Taps are added one after the other over all outputs, so the rounding of an output depends on nothing
but its own inputs: any chunking gives the same bits. Positions are integers: nothing drifts, however long it runs.

Source: J. O. Smith, Digital Audio Resampling Home Page (CCRMA), and the definition that torchaudio's
`functional.resample(resampling_method="sinc_interp_kaiser")` uses, which is the reference in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigurationError

Signal = NDArray[np.float32]
"""(n,) float32."""

ZEROS = 16
"""Zero crossings of the sinc on each side: the filter's length, its delay and its steepness."""
ROLLOFF = 0.9475937167399596
"""Cut-off as a share of the lower Nyquist frequency."""
BETA = 8.555504641634386
"""Kaiser window: side lobes below -84 dB."""


@dataclass(frozen=True, slots=True)
class ResamplerState:
    """Where a stream stands. history: the inputs from the next output's first tap on; never changed in place.

    consumed, produced: samples taken and given since the stream began.
    """

    history: Signal
    consumed: int
    produced: int

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as plain arrays, to be saved."""
        return {"history": self.history, "counts": np.array([self.consumed, self.produced], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ResamplerState:
        """The state that `to_arrays` gave. Raises TypeError, ValueError, LookupError for anything else."""
        history, counts = arrays["history"], arrays["counts"]
        if history.dtype != np.float32 or history.ndim != 1 or counts.dtype != np.int64 or counts.shape != (2,):
            raise ValueError("not one row of float32 samples and two counts")
        consumed, produced = counts.tolist()
        return cls(history, consumed, produced)


class Resampler:
    """Resamples mono signals from rate_in_hz to rate_out_hz. Holds no stream: one serves any number of them."""

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        """Raises ConfigurationError for rates below 1 Hz."""
        if rate_in_hz < 1 or rate_out_hz < 1:
            raise ConfigurationError(f"cannot resample {rate_in_hz} Hz to {rate_out_hz} Hz")
        self.rate_in_hz = rate_in_hz
        self.rate_out_hz = rate_out_hz
        common = gcd(rate_in_hz, rate_out_hz)
        self._up = rate_out_hz // common
        self._down = rate_in_hz // common
        self._identity = self._up == self._down
        self._width = 0 if self._identity else _width(self._up, self._down)

    @property
    def delay_s(self) -> float:
        """How much later than the input an output comes: half the filter."""
        return self._width / self.rate_in_hz

    def init_state(self) -> ResamplerState:
        """The state before the first sample: the zeros that precede a signal."""
        return ResamplerState(np.zeros(self._width, np.float32), 0, 0)

    def can_be_in(self, state: ResamplerState) -> bool:
        """Whether a state has as many samples in it as its counts say for these rates, all of them numbers."""
        if self._identity or min(state.consumed, state.produced) < 0 or not np.isfinite(state.history).all():
            return False
        first = state.produced * self._down // self._up - self._width
        due = max(0, -(-(state.consumed - self._width) * self._up // self._down))
        return state.produced == due and len(state.history) == state.consumed - first

    def step(self, state: ResamplerState, samples: Signal) -> tuple[ResamplerState, Signal]:
        """Feed (n,) samples; gives the new state and the outputs (m,) whose taps are now all known."""
        consumed = state.consumed + len(samples)
        if self._identity:
            return ResamplerState(state.history, consumed, consumed), samples
        signal = np.concatenate((state.history, samples.astype(np.float32, copy=False)))
        # Output m is due when first(m) + T <= consumed, T = 2 * width + 1, so m * M // L <= consumed - width - 1.
        due = max(state.produced, -(-(consumed - self._width) * self._up // self._down))
        return self._advance(state, signal, consumed, due)

    def flush(self, state: ResamplerState) -> tuple[ResamplerState, Signal]:
        """The outputs still due when the signal ends here, and a state for the next signal."""
        if self._identity:
            return self.init_state(), np.zeros(0, np.float32)
        signal = np.concatenate((state.history, np.zeros(self._width + 1, np.float32)))
        total = -(-state.consumed * self._up // self._down)
        _, out = self._advance(state, signal, state.consumed, max(total, state.produced))
        return self.init_state(), out

    def _advance(self, state: ResamplerState, signal: Signal, consumed: int, due: int) -> tuple[ResamplerState, Signal]:
        """Compute outputs [produced, due); `signal` starts at first(produced)."""
        taps = _taps(self._up, self._down)
        position = state.produced * self._down
        origin = position // self._up
        count = due - state.produced
        if self._up == 1:
            out = _decimate(signal, taps[0], self._down, count)
        else:
            ahead = position % self._up + np.arange(count) * self._down
            out = _interpolate(signal, taps, ahead // self._up, ahead % self._up)
        keep_from = due * self._down // self._up - origin
        return ResamplerState(signal[keep_from:].copy(), consumed, due), out


def _decimate(signal: Signal, taps: Signal, step: int, count: int) -> Signal:
    """Outputs at every `step`-th input: one strided view a tap."""
    out = np.zeros(count, np.float32)
    if count == 0:
        return out
    span = (count - 1) * step + 1
    for t, tap in enumerate(taps):
        out += signal[t : t + span : step] * tap
    return out


def _interpolate(signal: Signal, taps: Signal, first: NDArray[np.int64], phase: NDArray[np.int64]) -> Signal:
    """Outputs at inputs `first` with filter `phase`: (m,) each; taps (L, T)."""
    out = np.zeros(len(first), np.float32)
    for t in range(taps.shape[1]):
        out += signal[first + t] * taps[phase, t]
    return out


def _width(up: int, down: int) -> int:
    """Taps on each side of an output's place, in input samples."""
    return ceil(ZEROS * down / (min(up, down) * ROLLOFF))


@lru_cache(maxsize=16)
def _taps(up: int, down: int) -> Signal:
    """(L, T) float32: the filter of each phase, T = 2 * width + 1."""
    cutoff = min(up, down) * ROLLOFF / down  # a share of the input's Nyquist frequency
    width = _width(up, down)
    time = np.arange(-width, width + 1)[None, :] - np.arange(up)[:, None] / up  # input samples from the output's place
    crossings = np.clip(time * cutoff, -ZEROS, ZEROS)
    window = np.i0(BETA * np.sqrt(1 - (crossings / ZEROS) ** 2)) / np.i0(BETA)
    return np.asarray(np.sinc(crossings) * window * cutoff, np.float32)
