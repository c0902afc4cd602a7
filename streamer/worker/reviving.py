"""A saved state made a stream again, as one version of the model would have left it. What does not fit is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.codecs.resample import Resampler, ResamplerState
from streamer.errors import ConfigurationError, StateMismatch
from streamer.worker import snapshot
from streamer.worker.results import StreamKey
from streamer.worker.stream import Stream
from streamer.worker.version import Version

_FOREIGN = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What reading data of another shape than expected raises."""


def revive(key: StreamKey, data: bytes, version: Version) -> Stream:
    """The stream that `data` was saved of, its recurrent state on the host. Raises StateMismatch."""
    stream, task, resampler = snapshot.load(data, version.model, version.state_layout, version.exact_numerics)
    if (stream.partition, stream.id) != key:
        raise StateMismatch(
            f"saved state of {stream.id!r} in partition {stream.partition} lies under the key of {key.id!r} in "
            f"partition {key.partition}"
        )
    row = version.engine.signature.channels * np.dtype(np.float32).itemsize
    if stream.held is not None and len(stream.held) != row:
        raise StateMismatch(f"saved state holds {len(stream.held)} bytes of last values, the model's columns are {row}")
    stream.version = version
    try:
        stream.task = version.task.load(task)
    except _FOREIGN as error:
        raise StateMismatch(f"saved task state: {error!r}") from error
    if resampler is not None:
        stream.resampler = _resampler_state(resampler, stream.rate_hz, version.rate_hz)
    return stream


def _resampler_state(data: Any, rate_hz: int, model_rate_hz: int) -> ResamplerState:
    try:
        state = ResamplerState.from_arrays(data)
        if not Resampler(rate_hz, model_rate_hz).can_be_in(state):
            raise StateMismatch(
                f"saved resampler state of {len(state.history)} samples after {state.consumed} is none of {rate_hz} "
                f"to {model_rate_hz} Hz"
            )
    except (*_FOREIGN, ConfigurationError) as error:
        raise StateMismatch(f"saved resampler state: {error!r}") from error
    return state
