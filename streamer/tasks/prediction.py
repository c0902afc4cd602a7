"""Every record's model outputs as a prediction, for models that need nothing else said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.codecs.messages import Output, Prediction, iso_time
from streamer.tasks.base import StreamView, TaskBatch


class PredictionTask:
    """Publishes the last frame of each named output. Stateless."""

    independent = True

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def initial(self, clock_samples: int) -> None:
        return None

    def restart(self, stream: StreamView) -> None:
        return None

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        values: list[dict[str, list[float]]] = [{} for _ in batch.streams]
        for name, leaf in self.plain(batch.outputs, batch.lengths).items():
            for outputs, value in zip(values, leaf.tolist(), strict=True):
                outputs[name] = value
        said: list[list[Output]] = []
        for stream, time_ms, frames, outputs in zip(
            batch.streams, batch.times_ms, batch.lengths.tolist(), values, strict=True
        ):
            if not frames:
                said.append([])
                continue
            body = Prediction(stream=stream.id, time=iso_time(time_ms), outputs=outputs)
            said.append([Output(body, stream.key or b"", "prediction", 0, time_ms, False)])
        return [None] * len(said), said

    def plain(
        self, outputs: Mapping[str, NDArray[np.generic]], lengths: NDArray[np.int64]
    ) -> dict[str, NDArray[np.generic]]:
        rows, last = np.arange(len(lengths)), np.maximum(lengths - 1, 0)
        return {name: outputs[name][rows, last].reshape(len(rows), -1) for name in self.names}

    def finish(self, stream: StreamView) -> list[Output]:
        return []

    def dump(self, state: None) -> None:
        return None

    def load(self, data: Any) -> None:
        return None
