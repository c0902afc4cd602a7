"""W5: how long a new owner takes to bring its streams' states back, beside a bare read of the same changelog."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.bundle import wrap
from models.contract import StreamModel, state_bytes
from streamer.bench.networks import W1_FEATURES, FeatureLstm
from streamer.bench.rows import Row, median_ratio
from streamer.bench.sensor_job import fill
from streamer.bench.sensors import tuned_for_serving
from streamer.codecs.events import EventDecoder
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.partitioner import partition_of
from streamer.options import EngineOptions, InputOptions, OutputOptions, PipelineOptions
from streamer.records import NewRecord, TopicPartition
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import TinyGru
from streamer.worker import topics
from streamer.worker.worker import Worker

REACH = 2.0
PARTITIONS = 4
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of stream. values: columns of an event."""

    name: str
    make_model: Callable[[], StreamModel]
    streams: int
    values: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    share: float
    rounds: int


QUICK, FULL = Size(0.05, 1), Size(1.0, 5)
LOADS = (Load("W1", FeatureLstm, 2_000, W1_FEATURES), Load("W3's GRU", TinyGru, 10_000, 10))


def w5(bootstrap: str, size: Size) -> list[Row]:
    """A row for each kind of stream."""
    with tuned_for_serving():
        return [asyncio.run(_measure(bootstrap, load, int(load.streams * size.share), size.rounds)) for load in LOADS]


async def _measure(bootstrap: str, load: Load, streams: int, rounds: int) -> Row:
    run = f"w5-{load.values}-{os.getpid()}"
    columns = tuple(f"v{i}" for i in range(load.values))
    options = PipelineOptions(
        input=InputOptions(topic=run, partitions=PARTITIONS, columns=columns, array="values", stream="device"),
        model="any",
        engine=EngineOptions(device="cpu", max_batch=256, slots=512),
        outputs=OutputOptions(predictions=f"{run}.predictions", streams=f"{run}.streams", deadletters=f"{run}.dead"),
    )
    group = topics.group_of(run, "w5")
    changelog = topics.changelog_of(group, run)
    model = load.make_model()  # one: states of other random weights would be refused
    restored_s: list[float] = []
    bare_s: list[float] = []
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log:
        await fill(log, run, _events(streams, load.values))
        await topics.ensure(log, topics.needed(options, group, PARTITIONS), frozenset([changelog]), frozenset([run]))
        await _served(log, run, options, model)
        for _ in range(rounds):
            bare_s.append(await _bare_read(log, changelog))
            restored_s.append(await _served(log, run, options, model))
    value = statistics.median(restored_s)
    size = state_bytes(model)
    return Row(
        f"W5 recovery, {streams:,} streams of {load.name}: assigned to restored",
        value,
        "s",
        "a bare read of the changelog",
        value / median_ratio(restored_s, bare_s),
        REACH,
        "lower",
        note=f"states of {size:,} bytes, {PARTITIONS} partitions, one worker",
    )


def _events(streams: int, values: int) -> list[list[NewRecord]]:
    """One event of every stream, by partition."""
    made: list[list[NewRecord]] = [[] for _ in range(PARTITIONS)]
    drawn = np.random.default_rng(0).standard_normal((streams, values)).round(3)
    for number, row in enumerate(drawn):
        name = f"d{number}".encode()
        body = b'{"device": "%b", "seq": 0, "values": %b}' % (name, str(row.tolist()).encode())
        made[partition_of(name, PARTITIONS)].append(NewRecord(name, body))
    return made


async def _served(log: Log, application: str, options: PipelineOptions, model: StreamModel) -> float:
    """Serve until everything is committed, save all, leave. Returns the longest restore of a partition, s."""
    worker = Worker(
        log,
        "w5",
        options,
        wrap(model, name="any", version="1"),
        decoder=EventDecoder(options.input.columns, array="values", stream="device"),
        task=PredictionTask(()),
        application=application,
    )
    running = asyncio.create_task(worker.run())
    while not running.done() and not await worker.drained():  # noqa: ASYNC110 - it says so nowhere else
        await asyncio.sleep(_LOOK_S)
    worker.stop()
    await running
    return worker.metrics.histogram("streamer_restore_ms", pipeline="w5").read()["max"] / 1000


async def _bare_read(log: Log, changelog: str) -> float:
    names: Sequence[TopicPartition] = [TopicPartition(changelog, p) for p in range(PARTITIONS)]
    start = time.perf_counter()
    bounds = await log.offsets(names)
    async with log.reader({name: bounds[name].begin for name in names}) as reader:
        while any(reader.position(name) < bounds[name].end for name in names):
            await reader.read(timeout_s=1.0)
    return time.perf_counter() - start
