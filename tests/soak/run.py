"""One soak from beginning to end: a log, a process that serves, who feeds it and who counts what it says."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streamer.log.base import Log, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.sqlite import SqliteLog
from streamer.log.topics import FRAMING_BYTES
from streamer.options import AlertOptions, CommitOptions, EngineOptions, InputOptions, OutputOptions, PipelineOptions
from streamer.testing.kafka_broker import KafkaBroker
from streamer.worker.topics import group_of, needed
from tests.soak.outside import Feeder, Tap
from tests.soak.serve import APPLICATION, Duty
from tests.soak.streams import LIVES, Told, sensors, source, speech
from tests.soak.watch import Watch

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
KEPT_BYTES = 64 * 1024 * 1024
"""Of a partition of Kafka, but for changelogs; of an SQLite file what was appended in the last `Plan.kept_s`."""
SNAPSHOT_MS, LEAST_SNAPSHOT_MS = 3_000, 200
ENDS_S, ANSWER_S, SETTLED_S = 60.0, 120.0, 3.0
"""What the process may take to leave; how long nothing may move while something is left; and when nothing is."""
_LOOK_S = 0.5


class Plan(NamedTuple):
    """kafka: over a broker of its own, exactly once; else over an SQLite file. speakers, machines: streams of each.

    every_s: between two samples. life: of streams that end, a share of how long they usually live. folder: for the log
    and the samples.
    """

    folder: Path
    seconds: float
    kafka: bool
    speakers: int
    machines: int
    every_s: float = 5.0
    kept_s: float = 60.0
    life: float = 1.0
    trace: bool = False
    generated: bool = False


class Result(NamedTuple):
    """inside, outside: samples of the process that served, and of who watched it.

    fed, told: records, and how many streams began and ended in them, by pipeline. wrong: what was lost or doubled, in
    words. what: was fed.
    """

    inside: Sequence[Mapping[str, float]]
    outside: Sequence[Mapping[str, float]]
    fed: Mapping[str, int]
    told: Mapping[str, Told]
    wrong: Sequence[str]
    what: str


def pipelines(plan: Plan) -> dict[str, PipelineOptions]:
    """Speech and sensors; slots for three quarters of the streams, so that states go to the host and come back.

    Shorter lives are saved as often in a life: a mark waits until everything before it is saved.
    """
    snapshot_ms = max(LEAST_SNAPSHOT_MS, int(plan.life * SNAPSHOT_MS))
    commit = CommitOptions(commit_interval_ms=50, snapshot_interval_ms=snapshot_ms, max_inflight_bytes=16_000_000)
    found = {}
    for name, model, streams in (
        ("speech", "speech-en", plan.speakers),
        ("sensors", "machine-forecaster", plan.machines),
    ):
        if streams:
            engine = EngineOptions(device="cpu", max_batch=max(1, streams // 2), slots=3 * streams // 4, threads=1)
            found[name] = PipelineOptions(
                input=InputOptions(topic=name, partitions=PARTITIONS),
                model=model,
                engine=engine,
                commit=commit,
                alert=AlertOptions(cool_down_s=0.0),
                outputs=outputs_of(name),
            )
    return found


def outputs_of(pipeline: str) -> OutputOptions:
    """The topics of a pipeline's own."""
    return OutputOptions().under(f"{pipeline}.")


def soak(plan: Plan) -> Result:
    """Serve for so long, then answer what is left. Raises RuntimeError where the process failed."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    if not plan.kafka:
        return asyncio.run(_soak(plan, ""))
    with KafkaBroker(data=plan.folder / "log", eager=True) as broker:
        return asyncio.run(_soak(plan, broker.bootstrap))


async def _soak(plan: Plan, bootstrap: str) -> Result:
    file = plan.folder / "log" / "log.db"
    log: Log = KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) if bootstrap else SqliteLog(file, synchronous="OFF")
    chosen = pipelines(plan)
    async with log:
        await _create_topics(log, plan, chosen, bootstrap)
        feeders, what = _feeders(log, plan, chosen)
        duty = Duty(
            chosen,
            str(plan.folder / "inside.jsonl"),
            plan.every_s,
            bootstrap=bootstrap,
            file="" if bootstrap else str(file),
            trace=str(plan.folder / "memory.txt") if plan.trace else "",
        )
        tap = Tap(log, list(chosen.values()))
        async with _serving(duty, plan.folder / "said.log") as process:
            counting = asyncio.create_task(tap.run())
            outside = await Watch(log, plan.folder, feeders, plan.every_s).over(process, plan.seconds)
            inside = _read(Path(duty.samples))  # what it looks like with nothing to do is another matter
            wrong = await _all_answered(feeders, tap, process)
            counting.cancel()
            with suppress(asyncio.CancelledError):
                await counting
        if process.returncode:
            wrong.append(f"the process that served ended with {process.returncode}: {plan.folder / 'said.log'}")
    fed = {name: feeder.fed for name, feeder in feeders.items()}
    return Result(inside, outside, fed, {name: feeder.told for name, feeder in feeders.items()}, wrong, what)


def _feeders(log: Log, plan: Plan, chosen: Mapping[str, PipelineOptions]) -> tuple[dict[str, Feeder], str]:
    feeders, said = {}, []
    for name, options in chosen.items():
        told = Told()
        if name == "speech":
            tape = speech()
            sources = [source(number, tape, told, plan.life) for number in range(plan.speakers)]
        else:
            tapes = [sensors(number, generated=plan.generated) for number in range(min(12, plan.machines))]
            tape = tapes[0]
            sources = [source(n, tapes[n // len(LIVES) % len(tapes)], told, plan.life) for n in range(plan.machines)]
        feeders[name] = Feeder(log, options, group_of(APPLICATION, name), sources, told)
        said.append(f"{len(sources)} streams of {name} ({tape.what})")
    return feeders, ", ".join(said)


async def _create_topics(log: Log, plan: Plan, chosen: Mapping[str, PipelineOptions], bootstrap: str) -> None:
    """All topics, of which a little is kept."""
    retention_ms = int(plan.kept_s * 1000)
    wanted = [spec for name, o in chosen.items() for spec in needed(o, group_of(APPLICATION, name), PARTITIONS)]
    specs = [s if s.compact else dataclasses.replace(s, retention_ms=retention_ms) for s in wanted]
    if bootstrap:
        await asyncio.to_thread(_create_in_kafka, bootstrap, specs)
    else:
        await log.create_topics(specs)


def _create_in_kafka(bootstrap: str, specs: Sequence[TopicSpec]) -> None:
    """Kept by size: for retention by time Kafka looks at the records' own times, which are years ago."""
    topics = [
        NewTopic(
            spec.name,
            spec.partitions,
            1,
            config={
                "cleanup.policy": "compact" if spec.compact else "delete",
                "retention.ms": "-1",
                "retention.bytes": str(KEPT_BYTES),
                "segment.ms": str(10**12),
                "segment.bytes": str(KEPT_BYTES // 8),
                "max.message.bytes": str(spec.max_record_bytes + FRAMING_BYTES),
            },
        )
        for spec in specs
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})  # kept: it takes its answers along when it goes
    for made in admin.create_topics(topics).values():
        made.result()


@asynccontextmanager
async def _serving(duty: Duty, said: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process; it is sent away in the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.soak.serve", msgspec.json.encode(duty).decode()]
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            yield process
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(ENDS_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _all_answered(feeders: Mapping[str, Feeder], tap: Tap, process: asyncio.subprocess.Process) -> list[str]:
    """Wait until everything is said and nothing more comes. What is missing or too much then, in words."""
    last: tuple[int, int] | None = None
    since_s = time.monotonic()
    while process.returncode is None:
        left = sum([await feeder.left() for feeder in feeders.values()])
        if (now := (left, tap.counts.total())) != last:
            last, since_s = now, time.monotonic()
        if time.monotonic() - since_s > (ANSWER_S if left else SETTLED_S):
            break
        await asyncio.sleep(_LOOK_S)
    return [said for name, feeder in feeders.items() for said in apart(name, feeder.fed, feeder.told, tap.counts)]


def apart(name: str, fed: int, told: Told, counts: Mapping[str, int]) -> list[str]:
    """In what a pipeline's outputs are not what its input calls for, in words."""
    outputs = outputs_of(name)
    expected = {
        f"{outputs.streams}:started": told.begun,
        f"{outputs.streams}:ended": told.ended,
        f"{outputs.streams}:gap": 0,
        f"{outputs.streams}:reset": 0,
        outputs.deadletters: 0,
    }
    if name == "sensors":
        expected[outputs.predictions] = fed
    return [f"{what}: {counts.get(what, 0)}, not {n}" for what, n in expected.items() if counts.get(what, 0) != n]


def _read(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
