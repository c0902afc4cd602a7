"""Every record's model outputs as a prediction, for models that need nothing else said of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.codecs.messages import Output, Prediction, iso_time
from streamer.tasks.base import StreamView, TaskBatch


class PredictionTask:
    """Publishes the last frame of each named output. Stateless."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def initial(self, clock_samples: int) -> None:
        return None

    def restart(self, stream: StreamView) -> None:
        return None

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        rows = np.arange(len(batch.streams))
        last = np.maximum(batch.lengths - 1, 0)
        columns = [batch.outputs[name][rows, last].reshape(len(rows), -1).tolist() for name in self.names]
        said: list[list[Output]] = []
        for row, stream in enumerate(batch.streams):
            time_ms = batch.times_ms[row]
            values = {name: column[row] for name, column in zip(self.names, columns, strict=True)}
            body = Prediction(stream=stream.id, time=iso_time(time_ms), outputs=values)
            said.append([Output(body, stream.key or b"", "prediction", 0, time_ms, False)])
        return [None] * len(said), [s if batch.lengths[i] else [] for i, s in enumerate(said)]

    def finish(self, stream: StreamView) -> list[Output]:
        return []

    def dump(self, state: None) -> None:
        return None

    def load(self, data: Any) -> None:
        return None
