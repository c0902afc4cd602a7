"""Sources, logs and records for the tests of the pump."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from streamer.codecs.audio import audio_record, samples_in
from streamer.codecs.headers import CONTENT_TYPE, GAP, parse_gap
from streamer.errors import LogUnavailable
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, Record, TopicPartition

L = TypeVar("L", bound=MemoryLog)

RATE_HZ = 16_000
CHUNK = 160
PARTITIONS = 3


class ListFeed:
    """Gives prepared batches; as a live source it does not wait for the log."""

    name = "list"

    def __init__(self, batches: Sequence[Sequence[NewRecord]], *, live: bool, error: Exception | None = None) -> None:
        self._batches = batches
        self._error = error
        self.live = live
        self.given = asyncio.Event()

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        for batch in self._batches:
            yield batch
        if self._error is not None:
            raise self._error
        self.given.set()


class EndlessFeed:
    """A live source that gives one record and then listens for ever."""

    name = "endless"
    live = True

    def __init__(self) -> None:
        self.listening = asyncio.Event()

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        yield [audio(0)]
        self.listening.set()
        await asyncio.Event().wait()


class HeldLog(MemoryLog):
    """A log whose appends to a topic wait until they are let through."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self._held = held
        self.open = asyncio.Event()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        if topic == self._held:
            await self.open.wait()
        return await super().append(topic, partition, records)


class AbsentLog(MemoryLog):
    """A log that is away for its next `failures` appends."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("the broker is away")
        return await super().append(topic, partition, records)


def audio(seq: int, stream: str = "mic", samples: int = CHUNK, *, eos: bool = False) -> NewRecord:
    pcm = np.full(samples, seq, np.int16)
    index = seq * CHUNK
    time_ms = index * 1000 // RATE_HZ
    return audio_record(stream, pcm, RATE_HZ, session="s", seq=seq, sample_index=index, time_ms=time_ms, eos=eos)


async def with_topic(log: L, name: str = "audio") -> L:
    await log.create_topics([TopicSpec(name, partitions=PARTITIONS)])
    return log


async def read_all(log: MemoryLog, topic: str = "audio") -> list[Record]:
    names = [TopicPartition(topic, p) for p in range((await log.topics())[topic].partitions)]
    ends = await log.offsets(names)
    records: list[Record] = []
    async with log.reader(dict.fromkeys(names, 0)) as reader:
        while any(reader.position(name) < ends[name].end for name in names):
            for batch in await reader.read(timeout_s=1.0):
                records.extend(batch.records)
    return records


def samples(record: Record | NewRecord) -> int:
    return samples_in(record.value or b"", dict(record.headers)[CONTENT_TYPE])


def gap(record: Record | NewRecord) -> int:
    return sum(parse_gap(value)[0] for name, value in record.headers if name == GAP)


def wav(path: Path, seconds: float) -> Path:
    soundfile.write(path, np.arange(int(seconds * RATE_HZ)).astype(np.int16), RATE_HZ)
    return path
