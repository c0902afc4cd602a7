"""Plain predictions to records as columns: the same bytes as `messages.Encoder` gives, a whole step in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from streamer.codecs import prediction_kernel as kernel
from streamer.codecs.messages import Encoder, PlainPredictions, Prediction
from streamer.columns import Buffer, NewColumns, Numbers

_KIND = "prediction"


class PredictionColumns:
    """Encodes for one pipeline."""

    def __init__(self, encoder: Encoder) -> None:
        head: list[tuple[str, bytes | int]] = list(encoder.head(Prediction))
        self._headers = [*head, ("ce_id", kernel.ID), ("ce_subject", kernel.SUBJECT), ("ce_time", kernel.TIME)]
        self._json = msgspec.json.Encoder()

    def encode(self, said: PlainPredictions) -> NewColumns | None:
        """The records, in order. None for what only the ordinary encoder can say: times outside the calendar, outputs
        of different types.
        """
        values = [np.ascontiguousarray(leaf).reshape(len(said.owner), -1) for leaf in said.outputs.values()]
        times = said.times_ms
        if not len(times) or times.min() < kernel.FIRST_MS or times.max() > kernel.LAST_MS:
            return None
        if len({leaf.dtype for leaf in values}) != 1:
            return None
        numbers = self._json.encode((np.concatenate(values, 1) if len(values) > 1 else values[0]).ravel().tolist())
        names = [self._json.encode(name) for name in said.ids]
        constant = self._constant(said.outputs)
        id_head, id_tail = f"{said.topic}/".encode(), f"/{_KIND}/0".encode()
        name_bounds, key_bounds, subject_bounds = _bounds(names), _bounds(said.keys), _bounds(said.subjects)
        n = len(times)
        each = sum(map(len, constant)) + kernel.TIME_BYTES + len(id_head) + len(id_tail) + 2 * kernel.NUMBER_BYTES + 1
        size = n * each + len(numbers) + int(key_bounds[-1] + subject_bounds[-1])
        out = np.empty(size + int(np.diff(name_bounds)[said.owner].sum()), np.uint8)
        starts, ends = np.empty((2, kernel.ROWS, n), np.int64)
        written = kernel.write(
            out,
            starts,
            ends,
            said.owner,
            said.partitions,
            said.offsets,
            times,
            _joined(names),
            name_bounds,
            _joined(said.keys),
            key_bounds,
            _joined(said.subjects),
            subject_bounds,
            np.frombuffer(numbers, np.uint8),
            np.array([leaf.shape[1] for leaf in values], np.int64),
            _joined(constant),
            _bounds(constant),
            np.frombuffer(id_head + id_tail, np.uint8),
            len(id_head),
        )
        if written < 0:
            raise RuntimeError("the predictions' numbers as JSON are not as many as there are values")
        return NewColumns(out[:written], starts, ends, times, self._headers)

    def _constant(self, names: Mapping[str, Any]) -> list[bytes]:
        """The text of a value around what differs."""
        text = [b'{"stream":', b',"time":"']
        for number, name in enumerate(names):
            text.append((b"]," if number else b'","outputs":{') + self._json.encode(name) + b":[")
        return [*text, b"]}}"]


def _joined(parts: Sequence[bytes]) -> Buffer:
    return np.frombuffer(b"".join(parts), np.uint8)


def _bounds(parts: Sequence[bytes]) -> Numbers:
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=bounds[1:])
    return bounds
