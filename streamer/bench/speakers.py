"""64 people speak at once, at real-time pace, over a real Kafka: is anything lost, is it what each file says alone, and
how long after the end of a chunk does its partial transcript stand in the topic?

The worker runs in bf16 and deterministic mode, so that the transcripts must be identical.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from models.bundle import load as load_bundle
from models.contract import ModelError
from streamer.bench.kafka_echo import echoing
from streamer.bench.rows import Row, median_ratio, skipped
from streamer.bench.sensors import tuned_for_serving
from streamer.bench.speech import CHUNK_S, CHUNK_SAMPLES, Audio, recordings
from streamer.codecs.audio import AudioDecoder
from streamer.codecs.headers import CONTENT_TYPE, EOS, SAMPLE_INDEX, SEQ, SESSION
from streamer.codecs.messages import FinalTranscript, PartialTranscript, decode
from streamer.log.base import Log, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.log.partitioner import partition_of
from streamer.options import CommitOptions, EngineOptions, InputOptions, OutputOptions, PipelineOptions
from streamer.records import NewRecord, TopicPartition
from streamer.tasks.build import build_task
from streamer.worker import topics
from streamer.worker.worker import Worker

PARTITIONS = 4
REACH_P99_MS = 300.0
COMMIT_MS = 20
LATENCY_REACH, LATENCY_REACH_MS = 1.5, 100.0
TICK_S = 0.01
ANSWER_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """speakers: at once; longest_s: how long each speaks at least; alone: how many are also transcribed alone;
    rounds: how often W4 and its rival take turns, after one round that warms the broker up."""

    speakers: int
    longest_s: float
    alone: int
    rounds: int


QUICK = Size(speakers=8, longest_s=4.0, alone=1, rounds=1)
FULL = Size(speakers=64, longest_s=20.0, alone=64, rounds=3)


@dataclass(slots=True)
class Heard:
    """What came out. finals: stream id to its words, segment by segment; late_s: of each partial."""

    finals: dict[str, list[str]] = field(default_factory=dict)
    late_s: list[float] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)


def rows(bootstrap: str, size: Size) -> list[Row]:
    """Latency, what was lost, and how many transcripts differ from the file's alone."""
    name = f"{size.speakers} speakers over Kafka"
    try:
        load_bundle("speech-en")
    except ModelError as error:
        return [skipped(name, "ms", str(error))]
    signals, what = recordings(size.speakers)
    signals = _at_length(signals, int(size.longest_s * 16_000))
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
    signals, what = recordings(size.speakers)
    signals = _at_length(signals, int(size.longest_s * 16_000))
    spoken = {_name(i): one for i, one in enumerate(signals)}
    with tuned_for_serving():
        ours, echo = asyncio.run(_measure_latency(bootstrap, spoken, size.rounds))
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


async def _measure_latency(
    bootstrap: str, signals: dict[str, Audio], rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds from a chunk's end to its answer, of each round: the worker's and the echo's."""
    ours: list[list[float]] = []
    echo: list[list[float]] = []
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap, delivery="exactly_once")) as log:
        for number in range(rounds + 1):
            run = f"latency-{os.getpid()}-{number}"
            ours.append((await _serve(log, run, signals, paced=True, deterministic=False)).late_s)
            echo.append(await _echoed(log, bootstrap, run, signals))
    return ours[1:], echo[1:]


async def _echoed(log: Log, bootstrap: str, run: str, signals: dict[str, Audio]) -> list[float]:
    source, target = f"{run}.echo", f"{run}.echoed"
    await log.create_topics([TopicSpec(source, PARTITIONS), TopicSpec(target, PARTITIONS)])
    due_s: dict[tuple[int, int], float] = {}
    late_s: list[float] = []
    async with echoing(bootstrap, source, target, PARTITIONS, COMMIT_MS / 1000):
        listening = asyncio.create_task(_listen_to_echo(log, target, due_s, late_s))
        await _feed(log, source, signals, due_s, paced=True)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    return late_s


async def _listen_to_echo(log: Log, target: str, due_s: dict[tuple[int, int], float], late_s: list[float]) -> None:
    async with log.reader({TopicPartition(target, p): 0 for p in range(PARTITIONS)}) as reader:
        while True:
            batches = await reader.read(timeout_s=0.2)
            now = time.perf_counter()
            for record in (r for batch in batches for r in batch.records):
                offset = int(next(value for name, value in record.headers if name == "ce_id"))
                late_s.append(now - due_s.get((record.partition, offset), now))


def _at_length(signals: Sequence[Audio], samples: int) -> list[Audio]:
    """Every speaker reads on, the next one's recording behind their own, to the end of one that is long enough."""
    doubled = [*signals, *signals]
    joined = []
    for first in range(len(signals)):
        spoken: list[Audio] = []
        while sum(map(len, spoken)) < samples:
            spoken.append(doubled[first + len(spoken) % len(signals)])
        joined.append(np.concatenate(spoken))
    return joined


async def _measure(bootstrap: str, signals: Sequence[Audio], size: Size) -> tuple[Heard, dict[str, list[str]]]:
    run = f"speakers-{os.getpid()}"
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log:
        heard = await _serve(log, run, {_name(i): signal for i, signal in enumerate(signals)}, paced=True)
    alone: dict[str, list[str]] = {}
    for i, signal in enumerate(signals[: size.alone]):
        async with MemoryLog() as log:
            alone |= (await _serve(log, "alone", {_name(i): signal}, paced=False)).finals or {_name(i): []}
    heard.finals |= {_name(i): [] for i in range(len(signals)) if _name(i) not in heard.finals}
    return heard, alone


def _name(number: int) -> str:
    return f"speaker-{number}"


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


async def _serve(log: Log, run: str, signals: dict[str, Audio], *, paced: bool, deterministic: bool = True) -> Heard:
    """A worker of its own over `log`; everything is fed, and heard until every stream has ended."""
    options = _options(run, deterministic)
    group = topics.group_of(run, "speech")
    changelog = topics.changelog_of(group, options.input.topic)
    specs = topics.needed(options, group, PARTITIONS)
    await topics.ensure(log, specs, frozenset([changelog]), frozenset([options.input.topic]))
    bundle = load_bundle("speech-en")
    task = build_task(bundle, options)
    worker = Worker(log, "speech", options, bundle, decoder=AudioDecoder(), task=task, application=run)
    running = asyncio.create_task(worker.run())
    due_s: dict[tuple[int, int], float] = {}
    heard = Heard()
    while worker.status().partitions < PARTITIONS and not running.done():  # noqa: ASYNC110 - it says so nowhere else
        await asyncio.sleep(TICK_S)  # joining the group is not a chunk's latency
    listening = asyncio.create_task(_listen(log, options.outputs, heard, due_s, set(signals)))
    try:
        await _feed(log, options.input.topic, signals, due_s, paced=paced)
        with suppress(TimeoutError):
            await asyncio.wait_for(listening, ANSWER_TIMEOUT_S)
    finally:
        listening.cancel()
        worker.stop()
        await running
    return heard


async def _feed(
    log: Log, topic: str, signals: dict[str, Audio], due_s: dict[tuple[int, int], float], *, paced: bool
) -> None:
    """Append every chunk when its last sample has been spoken; speakers begin staggered over one chunk."""
    plan = sorted(
        (number * CHUNK_S / len(signals) + (index + 1) * CHUNK_S, number, index)
        for number, signal in enumerate(signals.values())
        for index in range(-(-len(signal) // CHUNK_SAMPLES))
    )
    names = list(signals)
    begin = time.perf_counter()
    position = 0
    while position < len(plan):
        now = time.perf_counter() - begin
        until = position
        while until < len(plan) and (not paced or plan[until][0] <= now):
            until += 1
        batches: dict[int, list[tuple[float, NewRecord]]] = {}
        for at_s, number, index in plan[position:until]:
            name = names[number]
            record = _record(name, signals[name], index)
            batches.setdefault(partition_of(name.encode(), PARTITIONS), []).append((begin + at_s, record))
        await asyncio.gather(*(_append(log, topic, p, batch, due_s) for p, batch in batches.items()))
        position = until
        await asyncio.sleep(TICK_S if paced else 0)


async def _append(
    log: Log, topic: str, partition: int, batch: list[tuple[float, NewRecord]], due_s: dict[tuple[int, int], float]
) -> None:
    first = await log.append(topic, partition, [record for _, record in batch])
    due_s.update({(partition, first + i): at_s for i, (at_s, _) in enumerate(batch)})


def _record(name: str, signal: Audio, index: int) -> NewRecord:
    start = index * CHUNK_SAMPLES
    samples = signal[start : start + CHUNK_SAMPLES]
    pcm = (np.clip(samples, -1.0, 32_767 / 32_768) * 32_768).astype("<i2").tobytes()
    headers = [
        (CONTENT_TYPE, b"audio/L16;rate=16000;channels=1"),
        (SESSION, b"1"),
        (SEQ, str(index).encode()),
        (SAMPLE_INDEX, str(start).encode()),
    ]
    if start + CHUNK_SAMPLES >= len(signal):
        headers.append((EOS, b"1"))
    return NewRecord(name.encode(), pcm, headers, index * 100)


async def _listen(
    log: Log, outputs: OutputOptions, heard: Heard, due_s: dict[tuple[int, int], float], wanted: set[str]
) -> None:
    """Note when each partial can be read, and every final, until all streams have ended."""
    start = {TopicPartition(topic, p): 0 for topic in (outputs.transcripts, outputs.streams) for p in range(PARTITIONS)}
    async with log.reader(start) as reader:
        while heard.ended != wanted:
            batches = await reader.read(timeout_s=0.2)
            now = time.perf_counter()
            for record in (r for batch in batches for r in batch.records):
                message = decode(record)
                body = message.body
                if isinstance(body, PartialTranscript):
                    _, partition, offset, _, _ = message.id.rsplit("/", 4)
                    heard.late_s.append(now - due_s.get((int(partition), int(offset)), now))
                elif isinstance(body, FinalTranscript):
                    heard.finals.setdefault(body.stream, []).append(body.text)
                elif getattr(body, "event", "") == "ended":
                    heard.ended.add(message.subject)
