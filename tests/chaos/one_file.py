"""Processes that feed and serve over one SQLite file, and are killed, or find the disk full.

Input is a known function of its offset, so a feeder that was killed goes on where the file says that it is. In the end
one worker answers what is left; what then stands in the output topics is compared byte for byte with what a worker
says, in a file of its own, of the same input.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, NamedTuple

import streamer
from streamer.errors import LogError
from streamer.log.base import TopicSpec
from streamer.log.sqlite import SqliteLog
from streamer.options import CommitOptions, EngineOptions, InputOptions
from streamer.records import NewRecord, Record, TopicPartition
from streamer.testing.models import RunningSum

Role = Literal["feed", "serve"]
NAME, INPUT, PARTITIONS, STREAMS = "sums", "numbers", 2, 3
ROLES: Sequence[Role] = ("feed", "serve", "serve")
OUTPUTS = ("predictions", "alerts", "streams", "deadletters")
PAUSE_S = (0.02, 0.6)
ENDS_S = 120.0
FULL_ABOVE_BYTES = 300_000
"""How much more a file may grow where the disk is nearly full."""
_PR_SET_PDEATHSIG = 1


class Result(NamedTuple):
    """times: how often the fault fell. records: fed. outputs: found. wrong: in words."""

    times: int
    records: int
    outputs: int
    wrong: Sequence[str]


def number(partition: int, offset: int) -> NewRecord:
    """The input record at this place."""
    value = random.Random(offset * PARTITIONS + partition).randrange(1_000)
    stream = f"s{partition}-{offset % STREAMS}".encode()
    seq = (("x-seq", b"%d" % (offset // STREAMS)),)
    return NewRecord(stream, json.dumps({"value": value}).encode(), seq, 1_700_000_000_000 + offset)


def app(log: streamer.Log) -> streamer.App:
    """The pipeline that is served."""
    return streamer.pipeline(
        streamer.wrap(RunningSum(), name="adder"),
        log=log,
        name=NAME,
        input=InputOptions(topic=INPUT, partitions=PARTITIONS),
        engine=EngineOptions(device="cpu", deterministic=True, threads=1, max_batch=8, slots=32),
        commit=CommitOptions(commit_interval_ms=5, snapshot_interval_ms=100),
    )


def work(role: Role, path: Path, said: Path, grows_by: int | None = None) -> None:
    """Feed or serve until SIGTERM. grows_by: the file may grow by so many bytes only."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with said.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} {role} %(levelname)s: %(message)s")
    if grows_by is not None:
        most = path.stat().st_size + grows_by
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        asyncio.run(_work(role, path))
    except LogError as error:
        logging.error("%s", error)
        sys.exit(3)


async def _work(role: Role, path: Path) -> None:
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    async with SqliteLog(path, lease_s=2.0) as log:
        if role == "feed":
            await _feed(log, leave)
        else:
            async with app(log) as serving:
                failing, leaving = asyncio.create_task(serving.failed()), asyncio.create_task(leave.wait())
                await asyncio.wait([failing, leaving], return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    failing.result()
                failing.cancel()


async def _feed(log: SqliteLog, leave: asyncio.Event) -> None:
    names = [TopicPartition(INPUT, partition) for partition in range(PARTITIONS)]
    ends = {name: bounds.end for name, bounds in (await log.offsets(names)).items()}
    while not leave.is_set():
        for name in names:
            many = random.randrange(1, 20)
            batch = [number(name.partition, ends[name] + i) for i in range(many)]
            ends[name] = await log.append(INPUT, name.partition, batch) + many
        with suppress(TimeoutError):
            await asyncio.wait_for(leave.wait(), 0.01)


class Processes:
    """Those that feed and serve over `path`."""

    def __init__(self, path: Path, said: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.one_file"])
        self._path, self._said = path, said
        self.running: list[tuple[Role, BaseProcess]] = []
        self.wrong: list[str] = []

    def start(self, role: Role, grows_by: int | None = None) -> BaseProcess:
        """One more."""
        process = self._context.Process(target=work, args=(role, self._path, self._said, grows_by))
        process.start()
        self.running.append((role, process))
        return process

    def kill(self, draw: random.Random) -> None:
        """SIGKILL one; another takes its place. Who has ended by itself is noted."""
        role, victim = draw.choice(self.running)
        victim.kill()
        victim.join()
        if victim.exitcode != -signal.SIGKILL:
            self.wrong.append(f"one that was to {role} ended with {victim.exitcode}")
        self.running.remove((role, victim))
        self.start(role)

    def send_away(self) -> None:
        """SIGTERM to all; who does not go is killed, and noted."""
        for _, process in self.running:
            process.terminate()
        for role, process in self.running:
            process.join(ENDS_S)
            if process.exitcode not in (0, -signal.SIGTERM):  # one without its handler yet ends by SIGTERM itself
                self.wrong.append(f"one that was to {role} ended with {process.exitcode} when sent away")
        self.end()

    def end(self) -> None:
        """Kill whoever is left."""
        for _, process in self.running:
            process.kill()
            process.join()
        self.running.clear()


def kills(folder: Path, times: int, draw: random.Random) -> Result:
    """So many of the processes are killed while they feed and serve."""
    path = _new(folder)
    processes = Processes(path, folder / "said.log")
    try:
        for role in ROLES:
            processes.start(role)
        for _ in range(times):
            time.sleep(draw.uniform(*PAUSE_S))
            processes.kill(draw)
        processes.send_away()
    finally:
        processes.end()
    return judged(path, times, processes.wrong)


def full_disk(folder: Path, times: int, draw: random.Random) -> Result:
    """A process finds that the file cannot grow any more, says so and ends; another goes on when there is room."""
    path = _new(folder)
    said = folder / "said.log"
    processes = Processes(path, said)
    try:
        for turn in range(times):
            role = ROLES[turn % 2]
            processes.start("serve" if role == "feed" else "feed")
            limited = processes.start(role, draw.randrange(FULL_ABOVE_BYTES // 3, FULL_ABOVE_BYTES))
            limited.join(ENDS_S)
            if limited.exitcode != 3:
                processes.wrong.append(f"one that was to {role} on a full disk ended with {limited.exitcode}")
            processes.running.remove((role, limited))
            processes.send_away()
    finally:
        processes.end()
    if said.read_text(encoding="utf-8").count("free some") < times:
        processes.wrong.append("not everyone said that the disk is full")
    return judged(path, times, processes.wrong)


def _new(folder: Path) -> Path:
    """A new file with its topics."""

    async def created() -> None:
        async with SqliteLog(path) as log:
            await log.create_topics([TopicSpec(INPUT, PARTITIONS)])

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.db"
    for old in folder.glob("*.db*"):
        old.unlink()
    asyncio.run(created())
    return path


def judged(path: Path, times: int = 0, wrong: Sequence[str] = ()) -> Result:
    """Answer what is left in the file, and compare it with what one worker says of the same input."""
    return asyncio.run(_judged(path, times, wrong))


async def _judged(path: Path, times: int, wrong: Sequence[str]) -> Result:
    async with SqliteLog(path) as log:
        found = await _answered(log)
        fed = {name: await _everything(log, name) for name in _partitions([INPUT])}
    alone = path.with_name("alone.db")
    async with SqliteLog(alone, synchronous="OFF") as log:
        await log.create_topics([TopicSpec(INPUT, PARTITIONS)])
        for name, records in fed.items():
            copies = [NewRecord(record.key, record.value, record.headers, record.timestamp_ms) for record in records]
            await log.append(INPUT, name.partition, copies)
        expected = await _answered(log)
    apart = [
        f"{name}: {len(found[name])} records for {len(expected[name])}, or not the same ones"
        for name in expected
        if _content(found[name]) != _content(expected[name])
    ]
    inputs = [
        f"{name}: not the records that were fed"
        for name, records in fed.items()
        if [(r.key, r.value) for r in records] != [number(name.partition, n)[:2] for n in range(len(records))]
    ]
    return Result(times, sum(map(len, fed.values())), sum(map(len, found.values())), [*wrong, *inputs, *apart])


async def _answered(log: SqliteLog) -> dict[TopicPartition, list[Record]]:
    """All outputs, after one worker has answered what is left."""
    async with app(log) as serving:
        await serving.drained()
    return {name: await _everything(log, name) for name in _partitions(OUTPUTS)}


def _partitions(topics: Sequence[str]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]


async def _everything(log: SqliteLog, name: TopicPartition) -> list[Record]:
    kept = (await log.offsets([name]))[name]
    found: list[Record] = []
    async with log.reader({name: kept.begin}) as reader:
        while reader.position(name) < kept.end:
            for batch in await reader.read(timeout_s=1.0):
                found += batch.records
    return found


def _content(records: Sequence[Record]) -> Sequence[object]:
    """In order within a stream; streams may come in any order."""
    return sorted(
        ((r.key, r.value, tuple(r.headers), r.timestamp_ms) for r in records), key=lambda content: content[0] or b""
    )
