"""A record's samples as the model wants them: its sample rate, lost samples filled, missing values held."""

from __future__ import annotations

import numpy as np

from streamer.codecs.base import Decoded, Samples
from streamer.codecs.resample import Resampler
from streamer.worker.stream import Stream


class Conversion:
    """What happens between the decoder and the network; its state lies in the stream.

    rate_hz: the model's, 0 for events. hold: missing values repeat the last one. tail_samples: silence behind a
    stream's last sample, at the model's rate: a network that looks back says its last letters some frames late.
    """

    def __init__(self, rate_hz: int, *, hold: bool, tail_samples: int = 0) -> None:
        self._rate_hz = rate_hz
        self._hold = hold
        self._tail = np.zeros((tail_samples, 1), np.float32)
        self._resamplers: dict[int, Resampler] = {}

    def samples(self, stream: Stream, decoded: Decoded, filled: int) -> Samples:
        """(n, C) at the model's rate, with `filled` lost samples before the record's own."""
        samples = decoded.samples
        if not self._rate_hz and not filled and not decoded.lacking:
            if self._hold:
                stream.held = samples[-1:].tobytes() if len(samples) > 1 else samples.tobytes() or stream.held
            return samples
        if filled:
            nothing = np.full((filled, samples.shape[1]), 0.0 if self._rate_hz else np.nan, np.float32)
            samples = np.concatenate([nothing, samples])
        if not self._rate_hz:
            return self._held(stream, samples) if self._hold else samples
        if stream.rate_hz != self._rate_hz:
            samples = self._resampled(stream, samples, decoded.eos)
        return np.concatenate([samples, self._tail]) if decoded.eos and len(self._tail) else samples

    def run(self, stream: Stream, samples: Samples) -> Samples:
        """samples: (n, C) of `n` events that follow each other plainly and lack nothing."""
        if self._hold:
            stream.held = samples[-1].tobytes()
        return samples

    def _resampled(self, stream: Stream, samples: Samples, last: bool) -> Samples:
        resampler = self._resamplers.get(stream.rate_hz)
        if resampler is None:
            resampler = self._resamplers[stream.rate_hz] = Resampler(stream.rate_hz, self._rate_hz)
        state = resampler.init_state() if stream.resampler is None else stream.resampler
        stream.resampler, out = resampler.step(state, samples[:, 0])
        if last:
            stream.resampler, tail = resampler.flush(stream.resampler)
            out = np.concatenate([out, tail])
        return out[:, None]

    def _held(self, stream: Stream, samples: Samples) -> Samples:
        """A missing value repeats its column's last one; before the first there is 0."""
        rows = samples.copy()
        last = np.zeros(rows.shape[1], np.float32)
        if stream.held is not None:
            last = np.frombuffer(stream.held, np.float32)
        for row in rows:
            missing = np.isnan(row)
            row[missing] = last[missing]
            last = row
        stream.held = last.tobytes()
        return rows
