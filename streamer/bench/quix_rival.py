"""W3's job in Quix Streams, one event at a time with the same GRU: a program of its own, as its users write it.

    python -m streamer.bench.quix_rival BOOTSTRAP TOPIC RECORDS

Prints records/s from the first record processed to the last one produced. Needs the extra `bench`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import uuid
from typing import Any

import torch

from models.contract import State
from streamer.testing.models import TinyGru


class Job:
    """Steps the GRU once an event; hidden states lie in a dict."""

    def __init__(self) -> None:
        self._model = TinyGru()
        self._states: dict[str, State] = {}
        self._one = torch.ones(1, dtype=torch.int64)
        self.begin_s = 0.0

    def step(self, event: dict[str, Any]) -> dict[str, Any]:
        """One event to one prediction."""
        self.begin_s = self.begin_s or time.perf_counter()
        device = event["device"]
        with torch.inference_mode():
            state = self._states.get(device) or self._model.init_state(1)
            outputs, self._states[device] = self._model.step(torch.tensor([[event["values"]]]), self._one, state)
        return {"stream": device, "outputs": {"y": outputs["y"].flatten().tolist()}}


def main() -> None:
    """Read `RECORDS` events and say how fast it was."""
    bootstrap, topic, records = sys.argv[1:4]
    torch.set_num_threads(1)
    quix = importlib.import_module("quixstreams")
    app = quix.Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{uuid.uuid4()}",
        auto_offset_reset="earliest",
        state_dir=tempfile.mkdtemp(prefix="quix-"),
        loglevel="ERROR",
    )
    job = Job()
    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    frame = frame.apply(job.step)
    frame.to_topic(app.topic(f"{topic}-quix", value_serializer="json"))
    app.run(count=int(records))
    print(int(records) / (time.perf_counter() - job.begin_s))


if __name__ == "__main__":
    main()
