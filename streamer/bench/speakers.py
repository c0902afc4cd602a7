"""64 people speak at once, at real-time pace, over a real Kafka: is anything lost, is it what each file says alone, and
how long after the end of a chunk does its partial transcript stand in the topic?

The worker runs in bf16 and deterministic mode, so that the transcripts must be identical.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.bundle import load as load_bundle
from models.contract import ModelError
from streamer.bench.kafka_echo import echoing
from streamer.bench.rows import Row, median_ratio, skipped
from streamer.bench.sensors import tuned_for_serving
from streamer.bench.speaking import PARTITIONS, TICK_S, Crowd, Errand, Heard, crowd, speak_and_listen, voices
from streamer.bench.speech import Audio
from streamer.codecs.audio import AudioDecoder
from streamer.log.base import Log, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, InputOptions, OutputOptions, PipelineOptions
from streamer.tasks.build import build_task
from streamer.worker import topics
from streamer.worker.worker import Worker

REACH_P99_MS = 300.0
COMMIT_MS = 20
WARM_UPS = 2
"""A broker that has just started compiles its own code for a minute, on the same cores."""
LATENCY_REACH, LATENCY_REACH_MS = 1.5, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """speakers: at once; longest_s: how long each speaks at least; alone: how many are also transcribed alone;
    rounds: how often W4 and its rival take turns, after `WARM_UPS` that do not count."""

    speakers: int
    longest_s: float
    alone: int
    rounds: int


QUICK = Size(speakers=8, longest_s=4.0, alone=1, rounds=1)
FULL = Size(speakers=64, longest_s=20.0, alone=64, rounds=3)


def rows(bootstrap: str, size: Size) -> list[Row]:
    """Latency, what was lost, and how many transcripts differ from the file's alone."""
    name = f"{size.speakers} speakers over Kafka"
    try:
        load_bundle("speech-en")
    except ModelError as error:
        return [skipped(name, "ms", str(error))]
    signals, what = voices(size.speakers, size.longest_s)
    with tuned_for_serving():
        heard, alone = asyncio.run(_measure(bootstrap, signals, size))
    different = sum(heard.finals.get(stream) != words for stream, words in alone.items())
    late_ms = [1000.0 * x for x in heard.late_s] or [float("nan")]
    pace = f"{what} at real-time pace, bf16, deterministic, {os.cpu_count()} cores"
    return [
        Row(
            f"{name}: chunk end to partial, p99",
            float(np.quantile(late_ms, 0.99)),
            "ms",
            reach=REACH_P99_MS,
            better="lower",
            note=f"p50 {np.quantile(late_ms, 0.5):.0f} ms of {len(heard.late_s)} partials; {pace}",
        ),
        Row(f"{name}: streams lost", float(size.speakers - len(heard.ended)), "streams", reach=0.0, better="lower"),
        Row(
            f"{name}: transcripts unlike the file's alone",
            float(different),
            "streams",
            reach=0.0,
            better="lower",
            note=f"{len(alone)} files were also transcribed alone",
        ),
    ]


def latency(bootstrap: str, size: Size) -> list[Row]:
    """W4: from a chunk's end to its committed partial, exactly once, beside a transactional echo on the same path."""
    name = f"W4 latency, {size.speakers} speakers, exactly once"
    try:
        load_bundle("speech-en")
    except ModelError as error:
        return [skipped(name, "ms", str(error))]
    _, what = voices(size.speakers, size.longest_s)
    with tuned_for_serving():
        ours, echo = asyncio.run(_measure_latency(bootstrap, size))
    ours_ms, echo_ms = _less_interval(ours, 0.99), _less_interval(echo, 0.99)
    value_ms, ratio = statistics.median(ours_ms), median_ratio(ours_ms, echo_ms)
    middle = statistics.median(_less_interval(ours, 0.5)), statistics.median(_less_interval(echo, 0.5))
    note = f"p50 {middle[0]:.0f} ms, the echo's {middle[1]:.0f} ms; commit interval of {COMMIT_MS} ms taken off; "
    note += f"rounds {', '.join(f'{a:.0f}/{b:.0f}' for a, b in zip(ours_ms, echo_ms, strict=True))} ms; "
    note += f"{what} at real-time pace, {os.cpu_count()} cores"
    return [
        Row(
            f"{name}: chunk end to committed, p99",
            value_ms,
            "ms",
            "a transactional echo",
            value_ms / ratio,
            LATENCY_REACH,
            "lower",
            note,
        ),
        Row(f"{name}: p99 in itself", value_ms, "ms", reach=LATENCY_REACH_MS, better="lower"),
    ]


def _less_interval(rounds: Sequence[Sequence[float]], quantile: float) -> list[float]:
    """Milliseconds of each round, less the commit interval."""
    return [1000 * float(np.quantile(late_s, quantile)) - COMMIT_MS for late_s in rounds]


async def _measure_latency(bootstrap: str, size: Size) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds from a chunk's end to its answer, of each round: the worker's and the echo's."""
    ours: list[list[float]] = []
    echo: list[list[float]] = []
    async with (
        KafkaLog(KafkaOptions(bootstrap_servers=bootstrap, delivery="exactly_once")) as log,
        crowd(bootstrap, size.speakers, size.longest_s) as people,
    ):
        for number in range(size.rounds + WARM_UPS):
            run = f"latency-{os.getpid()}-{number}"
            ours.append((await _served(log, run, people.speak, deterministic=False)).late_s)
            echo.append((await _echoed(log, bootstrap, run, people)).late_s)
    return ours[WARM_UPS:], echo[WARM_UPS:]


async def _echoed(log: Log, bootstrap: str, run: str, people: Crowd) -> Heard:
    source, target = f"{run}.echo", f"{run}.echoed"
    await log.create_topics([TopicSpec(source, PARTITIONS), TopicSpec(target, PARTITIONS)])
    async with echoing(bootstrap, source, target, PARTITIONS, COMMIT_MS / 1000):
        return await people.speak(Errand(source, echo=target))


async def _measure(bootstrap: str, signals: dict[str, Audio], size: Size) -> tuple[Heard, dict[str, list[str]]]:
    run = f"speakers-{os.getpid()}"
    async with (
        KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log,
        crowd(bootstrap, size.speakers, size.longest_s) as people,
    ):
        heard = await _served(log, run, people.speak)
    alone: dict[str, list[str]] = {}
    for name in list(signals)[: size.alone]:
        async with MemoryLog() as log:
            speak = partial(speak_and_listen, log, signals={name: signals[name]}, paced=False)
            alone |= (await _served(log, "alone", speak)).finals or {name: []}
    heard.finals |= {name: [] for name in signals if name not in heard.finals}
    return heard, alone


def _options(run: str, deterministic: bool) -> PipelineOptions:
    roles = ("transcripts", "predictions", "alerts", "streams", "deadletters")
    return PipelineOptions(
        input=InputOptions(topic=f"{run}.audio", partitions=PARTITIONS),
        model="speech-en",
        engine=EngineOptions(
            device="cpu",
            dtype="bfloat16",
            max_batch=32,
            slots=128,
            deterministic=deterministic,
            threads=1,
            warm_up=True,
        ),
        commit=CommitOptions(commit_interval_ms=COMMIT_MS),
        outputs=OutputOptions(**{role: f"{run}.{role}" for role in roles}),  # type: ignore[arg-type]
    )


async def _served(
    log: Log, run: str, speak: Callable[[Errand], Awaitable[Heard]], *, deterministic: bool = True
) -> Heard:
    """A worker of its own over `log`, to whom somebody speaks."""
    options = _options(run, deterministic)
    group = topics.group_of(run, "speech")
    changelog = topics.changelog_of(group, options.input.topic)
    specs = topics.needed(options, group, PARTITIONS)
    await topics.ensure(log, specs, frozenset([changelog]), frozenset([options.input.topic]))
    bundle = load_bundle("speech-en")
    task = build_task(bundle, options)
    worker = Worker(log, "speech", options, bundle, decoder=AudioDecoder(), task=task, application=run)
    running = asyncio.create_task(worker.run())
    while worker.status().partitions < PARTITIONS and not running.done():  # noqa: ASYNC110 - it says so nowhere else
        await asyncio.sleep(TICK_S)  # joining the group is not a chunk's latency
    outputs = options.outputs
    try:
        return await speak(Errand(options.input.topic, outputs.transcripts, outputs.streams))
    finally:
        worker.stop()
        await running
