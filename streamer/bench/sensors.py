"""W3's rows: the worker over a real Kafka beside bare client loops and Quix Streams, in turn on the same broker."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from streamer.bench import kafka_rivals, sensor_job, sensor_workers
from streamer.bench.rows import Row, median_ratio, skipped
from streamer.log.base import Log, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.kafka_connection import Delivery
from streamer.observe.process import tune_for_serving

BARE_REACH, QUIX_REACH, EXACTLY_REACH = 1.0, 10.0, 0.9
QUIX_PYTHON = "STREAMER_QUIX_PYTHON"
"""Names the Python of another environment that has quixstreams, where this one does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is measured. records: of one run; partitions: each count gives rows of its own."""

    records: int
    rounds: int
    partitions: tuple[int, ...]
    quix_records: int


QUICK = Load(records=40_000, rounds=2, partitions=(4,), quix_records=4_000)
FULL = Load(records=600_000, rounds=3, partitions=(4, 32), quix_records=20_000)


def w3(bootstrap: str, load: Load) -> list[Row]:
    """All rows of W3, for every number of partitions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the broker and the event loop need the other cores
    try:
        with tuned_for_serving():
            return [row for count in load.partitions for row in asyncio.run(_measure(bootstrap, load, count))]
    finally:
        torch.set_num_threads(threads)


@dataclass(slots=True)
class _Runs:
    """Records/s of each round. ours: by delivery and number of workers; lags_s: of all workers."""

    ours: dict[tuple[Delivery, int], list[float]]
    sends: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)


async def _measure(bootstrap: str, load: Load, partitions: int) -> list[Row]:
    source, bare = f"w3-{partitions}-{os.getpid()}", f"w3-bare-{partitions}-{os.getpid()}"
    most = min(os.cpu_count() or 1, partitions)
    counts = sorted({1, most})
    ways: list[tuple[Delivery, int]] = [(way, count) for way in ("at_least_once", "exactly_once") for count in counts]
    runs = _Runs({way: [] for way in ways})
    events = sensor_job.events(partitions, load.records)
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log:
        await sensor_job.fill(log, source, events)
        await log.create_topics([TopicSpec(bare, partitions)])
        answers = await _answers(log, source, partitions, load)
        for number in range(load.rounds):
            for delivery, workers in runs.ours:
                name = f"{source}-{number}-{workers}-{delivery}"
                await log.create_topics([TopicSpec(f"{name}-events", partitions)])
                run = await sensor_workers.run(log, bootstrap, name, f"{name}-events", events, workers, delivery)
                runs.ours[delivery, workers].append(run.records_per_s)
                runs.lags_s += run.lags_s
            runs.sends.append(await kafka_rivals.send_loop(bootstrap, source, bare, answers))
            runs.batches.append(await kafka_rivals.batch_loop(bootstrap, source, bare, answers))
    rows = _rows(load, f"W3 sensors, {partitions} partitions", runs)
    return [*rows, await _quix_row(bootstrap, source, load, runs.ours["at_least_once", 1])]


def _rows(load: Load, what: str, runs: _Runs) -> list[Row]:
    size = len(sensor_job.event(0, 0, np.zeros(len(sensor_job.COLUMNS)) - 0.1234))
    note = f"{load.records:,} events of about {size} bytes, {sensor_job.DEVICES:,} devices, one machine"
    rows = []
    for (delivery, workers), ours in runs.ours.items():
        name = f"{what}, {workers} worker{'s' if workers > 1 else ''}, {delivery.replace('_', ' ')}"
        rows.append(_against(name, ours, "bare aiokafka send() loop", runs.sends, BARE_REACH, note))
        rows.append(_against(name, ours, "bare send_batch() loop", runs.batches, None, "the client's limit"))
        if delivery == "exactly_once":
            less = runs.ours["at_least_once", workers]
            rows.append(_against(name, ours, "at least once", less, EXACTLY_REACH, "a transaction a partition"))
    late_ms = 1000 * np.quantile(runs.lags_s, [0.5, 0.99])
    return [
        *rows,
        Row(f"{what}: loop lag p99", float(late_ms[1]), "ms", note=f"p50 {late_ms[0]:.1f} ms, of a 5 ms timer"),
    ]


async def _quix_row(bootstrap: str, source: str, load: Load, ours: list[float]) -> Row:
    """Quix Streams is one process: so is what it is compared with."""
    return await asyncio.to_thread(_quix, "W3 sensors, 1 worker", statistics.median(ours), bootstrap, source, load)


async def _answers(log: Log, source: str, partitions: int, load: Load) -> kafka_rivals.Answers:
    """A first run, not measured: it warms everything up, and its answers are what the rivals publish."""
    await sensor_job.run(log, f"{source}-first", source, partitions, load.records)
    return await kafka_rivals.answers_of(log, f"{source}-first.predictions", partitions, load.records)


def _against(name: str, ours: list[float], rival: str, theirs: list[float], reach: float | None, note: str) -> Row:
    value = statistics.median(ours)
    return Row(name, value, "records/s", rival, value / median_ratio(ours, theirs), reach, note=note)


def _quix(name: str, value: float, bootstrap: str, source: str, load: Load) -> Row:
    python = os.environ.get(QUIX_PYTHON) or (sys.executable if find_spec("quixstreams") else None)
    if python is None:
        return skipped(
            f"{name} / Quix Streams",
            "records/s",
            "no quixstreams here: STREAMER_QUIX_PYTHON may name a Python that has it",
        )
    command = [python, "-m", "streamer.bench.quix_rival", bootstrap, source, str(load.quix_records)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return skipped(f"{name} / Quix Streams", "records/s", last)
    note = f"the same GRU, {load.quix_records:,} events, hidden states in a dict"
    return Row(name, value, "records/s", "Quix Streams", float(done.stdout.split()[-1]), QUIX_REACH, note=note)


@contextmanager
def tuned_for_serving() -> Iterator[Any]:
    """Python as a serving process sets it up (streamer.observe.process), and afterwards as it was."""
    before, interval_s = gc.get_threshold(), sys.getswitchinterval()
    tune_for_serving()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval_s)
        gc.unfreeze()
