"""The job of W3: one GRU step per sensor event, over a log. Input, pipeline and what a run of the worker gives.

Events are JSON of about 109 bytes from 1,000 devices, ten values each; the network is a GRU 10 -> 3 x 64 -> 1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

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


def event(device: int, seq: int, values: NDArray[np.float64]) -> bytes:
    """One event as a device would send it."""
    body = {"device": f"d{device}", "seq": seq, "values": [round(float(v), 4) for v in values]}
    return msgspec.json.encode(body)


def events(partitions: int, records: int) -> list[list[NewRecord]]:
    """`records` events of all devices in turns, by partition."""
    values = np.random.default_rng(0).standard_normal((records, len(COLUMNS)))
    made: list[list[NewRecord]] = [[] for _ in range(partitions)]
    for i in range(records):
        key = f"d{i % DEVICES}".encode()
        payload = event(i % DEVICES, i // DEVICES, values[i])
        made[partition_of(key, partitions)].append(NewRecord(key, payload, (), _START_MS + i))
    return made


async def fill(log: Log, topic: str, records: Sequence[Sequence[NewRecord]]) -> None:
    """Create the input and write each partition's records into it."""
    await log.create_topics([TopicSpec(topic, len(records))])
    for number, part in enumerate(records):
        for start in range(0, len(part), APPEND_RECORDS):
            await log.append(topic, number, part[start : start + APPEND_RECORDS])


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


async def create_topics(log: Log, application: str, topic: str, partitions: int) -> None:
    """Everything that the application's workers need."""
    options = pipeline(topic, partitions, application)
    group = topics.group_of(application, "sensors")
    changelog = topics.changelog_of(group, topic)
    await topics.ensure(log, topics.needed(options, group, partitions), frozenset([changelog]), frozenset([topic]))


@asynccontextmanager
async def worker(log: Log, application: str, topic: str, partitions: int) -> AsyncIterator[Worker]:
    """A worker reading `topic` from its beginning; drained and stopped on leaving."""
    options = pipeline(topic, partitions, application)
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


async def run(log: Log, application: str, topic: str, partitions: int, records: int) -> float:
    """Answer everything in `topic` once, here; records/s from the first one read to the last answer committed."""
    await create_topics(log, application, topic, partitions)
    async with worker(log, application, topic, partitions) as served:
        while not served.status().records:  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(_POLL_S / 10)
        start = time.perf_counter()
        await all_published(log, application, partitions, records)
        return records / (time.perf_counter() - start)


async def all_published(log: Log, application: str, partitions: int, records: int) -> None:
    """Wait until so many answers can be read."""
    outputs = [TopicPartition(f"{application}.predictions", p) for p in range(partitions)]
    while sum(bounds.end for bounds in (await log.offsets(outputs)).values()) < records:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


async def tick(lags: list[float], period_s: float = 0.005) -> None:
    """Note how late each tick comes."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period_s
        await asyncio.sleep(period_s)
        lags.append(loop.time() - due)
