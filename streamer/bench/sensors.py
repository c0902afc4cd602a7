"""W3's rows: the worker over a real Kafka beside bare client loops and Quix Streams, in turn on the same broker."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from streamer.bench import kafka_rivals, sensor_job, sensor_workers
from streamer.bench.rows import Row, median_ratio, skipped
from streamer.log.base import Log, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.observe.process import tune_for_serving

BARE_REACH, QUIX_REACH = 1.0, 10.0
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
FULL = Load(records=200_000, rounds=5, partitions=(4, 32), quix_records=20_000)


def w3(bootstrap: str, load: Load) -> list[Row]:
    """All rows of W3, for every number of partitions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the broker and the event loop need the other cores
    try:
        with tuned_for_serving():
            return [row for count in load.partitions for row in asyncio.run(_measure(bootstrap, load, count))]
    finally:
        torch.set_num_threads(threads)


async def _measure(bootstrap: str, load: Load, partitions: int) -> list[Row]:
    source, bare = f"w3-{partitions}-{os.getpid()}", f"w3-bare-{partitions}-{os.getpid()}"
    counts = sorted({1, min(os.cpu_count() or 1, partitions)})
    ours: dict[int, list[float]] = {workers: [] for workers in counts}
    sends: list[float] = []
    batches: list[float] = []
    lags_s: list[float] = []
    events = sensor_job.events(partitions, load.records)
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log:
        await sensor_job.fill(log, source, events)
        await log.create_topics([TopicSpec(bare, partitions)])
        answers = await _answers(log, source, partitions, load)
        for number in range(load.rounds):
            for workers in counts:
                name = f"{source}-{number}-{workers}"
                await log.create_topics([TopicSpec(f"{name}-events", partitions)])
                run = await sensor_workers.run(log, bootstrap, name, f"{name}-events", events, workers)
                ours[workers].append(run.records_per_s)
                lags_s += run.lags_s
            sends.append(await kafka_rivals.send_loop(bootstrap, source, bare, answers))
            batches.append(await kafka_rivals.batch_loop(bootstrap, source, bare, answers))
    return [*_rows(load, partitions, ours, sends, batches, lags_s), await _quix_row(bootstrap, source, load, ours)]


def _rows(
    load: Load,
    partitions: int,
    ours: Mapping[int, list[float]],
    sends: list[float],
    batches: list[float],
    lags_s: list[float],
) -> list[Row]:
    size = len(sensor_job.event(0, 0, np.zeros(len(sensor_job.COLUMNS)) - 0.1234))
    note = f"{load.records:,} events of about {size} bytes, {sensor_job.DEVICES:,} devices, at least once, one machine"
    rows = []
    for workers, runs in ours.items():
        name = f"W3 sensors, {partitions} partitions, {workers} worker{'s' if workers > 1 else ''}"
        rows += [
            _against(name, runs, "bare aiokafka send() loop", sends, BARE_REACH, note),
            _against(name, runs, "bare send_batch() loop", batches, None, "the client's limit"),
        ]
    late_ms = 1000 * np.quantile(lags_s, [0.5, 0.99])
    name = f"W3 sensors, {partitions} partitions: loop lag p99"
    return [*rows, Row(name, float(late_ms[1]), "ms", note=f"p50 {late_ms[0]:.1f} ms, of a 5 ms timer")]


async def _quix_row(bootstrap: str, source: str, load: Load, ours: Mapping[int, list[float]]) -> Row:
    """Quix Streams is one process: so is what it is compared with."""
    return await asyncio.to_thread(_quix, "W3 sensors, 1 worker", statistics.median(ours[1]), bootstrap, source, load)


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
