"""What is fed: streams of recorded machines and people, with alerts and finals in every one of them.

Recordings come from the data folder (NAB, kathleen); without it, or where `generated` is asked for, signals with
planted faults and synthesised voices stand in for them. The same arguments give the same records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, cycle, islice
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.sensor.corpus import data_folder, read_nab
from streamer.bench.speech import recordings
from streamer.options import AlertOptions, CommitOptions, EngineOptions, InputOptions, PipelineOptions

Kind = Literal["sensors", "speech", "both"]
Mode = Literal["deterministic", "mixed"]
APPLICATION = "chaos"
SENSOR_MODEL, SPEECH_MODEL = "machine-forecaster", "speech-en"
ALERT = AlertOptions(cool_down_s=0.0)
PARTITIONS = 6
EVENTS_A_KILL, CHUNKS_A_KILL = 60, 15
"""At one kill in some seconds the workers are always publishing."""
LEAST_EVENTS, LEAST_EVENTS_GENERATED, LEAST_CHUNKS = 260, 140, 70
"""Of each stream: enough for an alert or a final in it."""
CHUNK_SAMPLES = 1_600
PAUSE = np.zeros(19_200, np.float32)
SENTENCES_A_SESSION = 5
SPEAKERS, GENERATED = 6, 6
MACHINES = (
    "realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv",
    "realAWSCloudwatch/ec2_cpu_utilization_53ea38.csv",
    "realAWSCloudwatch/ec2_cpu_utilization_ac20cd.csv",
    "realAWSCloudwatch/ec2_cpu_utilization_c6585a.csv",
    "realAWSCloudwatch/ec2_cpu_utilization_fe7f93.csv",
    "realAWSCloudwatch/elb_request_count_8c0756.csv",
    "realAWSCloudwatch/grok_asg_anomaly.csv",
    "realAWSCloudwatch/rds_cpu_utilization_cc0c53.csv",
    "realKnownCause/machine_temperature_system_failure.csv",
    "realTraffic/occupancy_t4013.csv",
    "realTweets/Twitter_volume_AAPL.csv",
    "realTweets/Twitter_volume_CRM.csv",
)
"""Recordings of NAB in whose first `LEAST_EVENTS` readings an alert fires."""
MIXED = (
    EngineOptions(device="cpu", dtype="float32", max_batch=4, slots=64, threads=1),
    EngineOptions(device="cpu", dtype="bfloat16", max_batch=16, slots=64, threads=1),
    EngineOptions(device="cpu", dtype="float32", max_batch=2, slots=64, threads=1, chunks_per_call=3),
    EngineOptions(device="cpu", dtype="bfloat16", max_batch=7, slots=64, threads=1, chunks_per_call=1),
)
"""The engines of a mixed crew, in turns."""
_START_MS, _INTERVAL_MS = 1_700_000_000_000, 300_000


class Fed(NamedTuple):
    """One input record and where it goes."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


class History(NamedTuple):
    """records: in the order in which they are fed. decision: what `ce_type` every stream of a topic must have.

    sources: what the streams of each topic are.
    """

    kind: Kind
    pipelines: Mapping[str, PipelineOptions]
    records: Sequence[Fed]
    decision: Mapping[str, str]
    sources: Mapping[str, str]


class Signal(NamedTuple):
    """A recorded sensor: name, (T,) Unix times in ms and (T,) values."""

    name: str
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]


def history(kind: Kind, kills: int, *, generated: bool = False) -> History:
    """Records for so many kills."""
    pipelines: dict[str, PipelineOptions] = {}
    parts: list[list[Fed]] = []
    decision: dict[str, str] = {}
    sources: dict[str, str] = {}
    if kind != "speech":
        pipelines["sensors"] = options_of("sensors", SENSOR_MODEL, 16)
        signals, sources["sensors"] = machines(generated)
        least = LEAST_EVENTS_GENERATED if generated else LEAST_EVENTS
        parts.append(_in_turns(signals_fed(signals), max(least, kills * EVENTS_A_KILL // len(signals))))
        decision["sensors"] = "streamer.alert.v1"
    if kind != "sensors":
        pipelines["speech"] = options_of("speech", SPEECH_MODEL, 8)
        speaking, sources["speech"] = speakers_fed()
        parts.append(_in_turns(speaking, max(LEAST_CHUNKS, kills * CHUNKS_A_KILL // SPEAKERS)))
        decision["speech"] = "streamer.transcript.final.v1"
    return History(kind, pipelines, _merged(parts), decision, sources)


def options_of(topic: str, model: str, max_batch: int) -> PipelineOptions:
    return PipelineOptions(
        input=InputOptions(topic=topic, partitions=PARTITIONS),
        model=model,
        engine=EngineOptions(device="cpu", max_batch=max_batch, slots=64, deterministic=True, threads=1),
        commit=CommitOptions(commit_interval_ms=50, snapshot_interval_ms=3_000),
        alert=ALERT,
    )


def served(pipelines: Mapping[str, PipelineOptions], mode: Mode, number: int) -> Mapping[str, PipelineOptions]:
    """What the worker of this number serves; mixed: each in another type and other batches."""
    if mode == "deterministic":
        return pipelines
    return {name: replace(options, engine=MIXED[number % len(MIXED)]) for name, options in pipelines.items()}


def _in_turns(streams: Sequence[Iterator[Fed]], each: int) -> list[Fed]:
    return [next(stream) for _ in range(each) for stream in streams]


def _merged(parts: Sequence[Sequence[Fed]]) -> list[Fed]:
    """All in one order, each part spread evenly over it."""
    placed = [((n + 1) / len(part), p, n) for p, part in enumerate(parts) for n in range(len(part))]
    return [parts[p][n] for _, p, n in sorted(placed)]


def machines(generated: bool) -> tuple[list[Signal], str]:
    """Recorded machines, or generated ones that misbehave; and what they are."""
    folder = data_folder() / "nab"
    if generated or not folder.is_dir():
        return [_generated(number) for number in range(GENERATED)], "generated"
    found = {recording.name: recording for recording in read_nab(folder)}
    return [Signal(name, found[name].time_ms, found[name].value) for name in MACHINES], "recorded by NAB"


def _generated(number: int) -> Signal:
    """A daily wave with noise; from reading 115 on, and every 60 behind it, it is far off for eight readings."""
    draw = np.random.default_rng(number)
    at = np.arange(2_000)
    value = 50 + 10 * np.sin(at / 46 + number) + draw.normal(size=len(at))
    value[(at >= 115) & ((at - 115) % 60 < 8)] += 90
    return Signal(f"machine-{number}", _START_MS + _INTERVAL_MS * at, np.round(value, 3))


def signals_fed(signals: Sequence[Signal]) -> list[Iterator[Fed]]:
    """Each signal's events without end: when it is over it begins again, as another session and later."""

    def events(number: int, signal: Signal) -> Iterator[Fed]:
        shift = int(signal.time_ms[-1] - signal.time_ms[0]) + _INTERVAL_MS
        for session in count():
            for seq, (time_ms, value) in enumerate(zip(signal.time_ms, signal.value, strict=True)):
                headers = (("x-session", str(session).encode()), ("x-seq", str(seq).encode()))
                body = json.dumps({"value": float(value)}).encode()
                at_ms = int(time_ms) + session * shift
                yield Fed("sensors", number % PARTITIONS, signal.name.encode(), body, headers, at_ms)

    return [events(number, signal) for number, signal in enumerate(signals)]


def speakers_fed() -> tuple[list[Iterator[Fed]], str]:
    """People who read sentences, five a session, with pauses between them; and what they are."""
    sentences, source = recordings(SPEAKERS * SENTENCES_A_SESSION)

    def chunks(number: int) -> Iterator[Fed]:
        own = cycle(sentences[number::SPEAKERS])
        key, time_ms = f"speaker-{number}".encode(), _START_MS
        for session in count():
            sound = np.concatenate([part for said in islice(own, SENTENCES_A_SESSION) for part in (said, PAUSE)])
            starts = range(0, len(sound), CHUNK_SAMPLES)
            for seq, start in enumerate(starts):
                headers = _audio_headers(session, seq, start, seq == len(starts) - 1)
                pcm = np.clip(sound[start : start + CHUNK_SAMPLES], -1.0, 32_767 / 32_768) * 32_768
                yield Fed("speech", number % PARTITIONS, key, pcm.astype("<i2").tobytes(), headers, time_ms)
                time_ms += 100

    return [chunks(number) for number in range(SPEAKERS)], source


def _audio_headers(session: int, seq: int, start: int, last: bool) -> tuple[tuple[str, bytes], ...]:
    return (
        ("content-type", b"audio/L16;rate=16000;channels=1"),
        ("x-session", str(session).encode()),
        ("x-seq", str(seq).encode()),
        ("x-sample-index", str(start).encode()),
        *([("x-eos", b"1")] if last else []),
    )
