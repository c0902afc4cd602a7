"""The process under the soak: nothing but pipelines that serve, and a look at what it holds every few seconds.

`python -m tests.soak.serve DUTY`, a JSON of `Duty`; it ends by SIGTERM, and with the process that started it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import linecache
import os
import signal
import sys
import time
import tracemalloc
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from streamer.app import App
from streamer.observe.process import tune_for_serving
from streamer.options import PipelineOptions
from streamer.settings import KafkaSettings, Settings, SqliteSettings
from tests.soak.probe import sample

APPLICATION = "soak"
_PR_SET_PDEATHSIG = 1
_MOST_LINES = 40


class Duty(msgspec.Struct, frozen=True):
    """What to serve and where to write it down. bootstrap: of Kafka, or empty: then `file` is an SQLite log.

    every_s: between two samples. trace: the file for where memory was taken that is still held, empty for none.
    """

    pipelines: dict[str, PipelineOptions]
    samples: str
    every_s: float
    bootstrap: str = ""
    file: str = ""
    trace: str = ""


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    tune_for_serving()
    duty = msgspec.json.decode(sys.argv[1], type=Duty)
    with Path(duty.samples).open("w", encoding="utf-8", buffering=1) as samples:
        asyncio.run(_serve(duty, samples))


async def _serve(duty: Duty, samples: IO[str]) -> None:
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    log: Any = (
        KafkaSettings(kind="kafka", bootstrap_servers=duty.bootstrap, delivery="exactly_once")
        if duty.bootstrap
        else SqliteSettings(path=duty.file)
    )
    settings = Settings(application=APPLICATION, log=log, pipelines=duty.pipelines, feeds=[])
    began_s = time.monotonic()
    async with App(settings) as app:
        failing = asyncio.create_task(app.failed())
        first = None
        while not leave.is_set() and not failing.done():
            await _wait(leave, duty.every_s)
            found = sample(app, began_s)
            samples.write(json.dumps(found) + "\n")
            first = _traced(duty, first, found["answered"])
        if failing.done():
            failing.result()
        failing.cancel()


async def _wait(leave: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await leave.wait()
    except TimeoutError:
        pass


def _traced(duty: Duty, first: tracemalloc.Snapshot | None, answered: float) -> tracemalloc.Snapshot | None:
    """Where was memory taken that was not there at first? `first` is taken once everything has its size."""
    if not duty.trace or answered < 1:
        return first
    if not tracemalloc.is_tracing():
        tracemalloc.start(8)
        return None
    own = [tracemalloc.Filter(False, str(module.__file__)) for module in (tracemalloc, linecache)]
    now = tracemalloc.take_snapshot().filter_traces(own)
    if first is None:
        return now
    grown = now.compare_to(first, "traceback")[:_MOST_LINES]
    said = [
        f"{line.size_diff:+d} bytes, {line.count_diff:+d} blocks\n" + "\n".join(line.traceback.format())
        for line in grown
    ]
    Path(duty.trace).write_text("\n\n".join(said) + os.linesep, encoding="utf-8")
    return first


if __name__ == "__main__":
    main()
