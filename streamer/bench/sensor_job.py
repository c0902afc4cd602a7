"""The job of W3: one GRU step per sensor event, over a log. Input, pipeline and what a run of the worker gives.

Events are JSON of about 109 bytes from 1,000 devices, ten values each; the network is a GRU 10 -> 3 x 64 -> 1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import wrap
from streamer.codecs.events import EventDecoder
from streamer.log.base import Log, TopicSpec
from streamer.log.partitioner import partition_of
from streamer.observe.metrics import Metrics
from streamer.options import CommitOptions, EngineOptions, InputOptions, OutputOptions, PipelineOptions
from streamer.records import NewRecord, TopicPartition
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import TinyGru
from streamer.worker import topics
from streamer.worker.worker import Worker

DEVICES = 1_000
COLUMNS = tuple(f"v{i}" for i in range(10))
APPEND_RECORDS = 4_096
_POLL_S = 0.02
_START_MS = 1_700_000_000_000


class SensorRun(NamedTuple):
    """One run. lags_s: how late a 5 ms timer of the worker's event loop was, each time."""

    records_per_s: float
    lags_s: Sequence[float]


def event(device: int, seq: int, values: NDArray[np.float64]) -> bytes:
    """One event as a device would send it."""
    body = {"device": f"d{device}", "seq": seq, "values": [round(float(v), 4) for v in values]}
    return msgspec.json.encode(body)


async def fill(log: Log, topic: str, partitions: int, records: int) -> int:
    """Create the input and write `records` events into it; returns the mean size of an event, bytes."""
    await log.create_topics([TopicSpec(topic, partitions)])
    values = np.random.default_rng(0).standard_normal((records, len(COLUMNS)))
    waiting: list[list[NewRecord]] = [[] for _ in range(partitions)]
    size = 0
    for i in range(records):
        key = f"d{i % DEVICES}".encode()
        payload = event(i % DEVICES, i // DEVICES, values[i])
        size += len(payload)
        where = partition_of(key, partitions)
        waiting[where].append(NewRecord(key, payload, (), _START_MS + i))
        if len(waiting[where]) == APPEND_RECORDS:
            await log.append(topic, where, waiting[where])
            waiting[where] = []
    await asyncio.gather(*(log.append(topic, p, batch) for p, batch in enumerate(waiting) if batch))
    return size // records


def pipeline(topic: str, partitions: int, prefix: str) -> PipelineOptions:
    """The pipeline that does the job; its outputs go to topics with `prefix`."""
    roles = ("transcripts", "predictions", "alerts", "streams", "deadletters")
    return PipelineOptions(
        input=InputOptions(topic=topic, partitions=partitions, columns=COLUMNS, array="values", stream="device"),
        model="tiny",
        engine=EngineOptions(device="cpu", max_batch=DEVICES, slots=2 * DEVICES, threads=1),
        outputs=OutputOptions(**{role: f"{prefix}.{role}" for role in roles}),  # type: ignore[arg-type]
        commit=CommitOptions(),
    )


@asynccontextmanager
async def worker(log: Log, application: str, topic: str, partitions: int) -> AsyncIterator[Worker]:
    """A worker with topics of its own, reading `topic` from its beginning; drained and stopped on leaving."""
    options = pipeline(topic, partitions, application)
    group = topics.group_of(application, "sensors")
    changelog = topics.changelog_of(group, topic)
    await topics.ensure(log, topics.needed(options, group, partitions), frozenset([changelog]), frozenset([topic]))
    metrics = Metrics()
    served = Worker(
        log,
        "sensors",
        options,
        wrap(TinyGru(), name="tiny"),
        decoder=EventDecoder(COLUMNS, array="values", stream="device"),
        task=PredictionTask(("y",)),
        application=application,
        metrics=metrics,
    )
    running = asyncio.create_task(served.run())
    try:
        yield served
    finally:
        served.stop()
        await running


async def run(log: Log, application: str, topic: str, partitions: int, records: int) -> SensorRun:
    """Answer everything in `topic` once. Timed from the first record read to the last answer committed."""
    outputs = [TopicPartition(f"{application}.predictions", p) for p in range(partitions)]
    lags: list[float] = []
    async with worker(log, application, topic, partitions) as served:
        ticking = asyncio.create_task(_tick(lags))
        while not served.status().records:  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(_POLL_S / 10)
        start = time.perf_counter()
        lags.clear()
        while await _published(log, outputs) < records:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        taken_s = time.perf_counter() - start
        ticking.cancel()
    return SensorRun(records / taken_s, lags)


async def _published(log: Log, partitions: Sequence[TopicPartition]) -> int:
    return sum(bounds.end for bounds in (await log.offsets(partitions)).values())


async def _tick(lags: list[float], period_s: float = 0.005) -> None:
    """Note how late each tick comes."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period_s
        await asyncio.sleep(period_s)
        lags.append(loop.time() - due)
