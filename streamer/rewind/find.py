"""Where in the log a stream begins, and the nearest kept snapshot from which it can be run again.

What begins a stream is judged by the worker's own rules over the records that are kept. Whether the first one of those
is a beginning is known only where nothing was cut from the partition; else what the live pipeline said of it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from streamer.codecs.base import Decoded, Decoder
from streamer.codecs.messages import StreamEvent, decode
from streamer.errors import Malformed, StateMismatch
from streamer.log.base import Log
from streamer.options import StreamOptions
from streamer.records import Record, RecordBatch, TopicPartition
from streamer.worker.results import StreamKey
from streamer.worker.snapshot import peek
from streamer.worker.stream import Stream, ended_sessions, follow, judge, open_stream

_READ = 1024
_READ_TIMEOUT_S = 1.0


@dataclass(slots=True)
class Course:
    """What the kept records of a stream tell. starts: offsets at which it begins; last: its last record, None for none.

    whole: whether the first record kept of it is known to be one that it began with.
    """

    starts: list[int] = field(default_factory=list)
    first: int | None = None
    last: int | None = None
    whole: bool = True


class _Courses:
    """Follows streams through their records as a worker would judge them, without a model."""

    def __init__(self, partition: int, wanted: frozenset[str], options: StreamOptions, whole: bool) -> None:
        self.found: dict[str, Course] = {}
        self._partition = partition
        self._wanted = wanted
        self._options = options
        self._whole = whole
        self._streams: dict[str, Stream] = {}
        self._over: dict[str, tuple[str, ...]] = {}

    def take(self, records: Sequence[Record], decoder: Decoder) -> None:
        for record, decoded in zip(records, decoder.decode(records), strict=True):
            if not isinstance(decoded, Malformed) and decoded.stream in self._wanted:
                self._follow(record, decoded)

    def _follow(self, record: Record, decoded: Decoded) -> None:
        name, offset = decoded.stream, record.offset
        course = self.found.setdefault(name, Course(whole=self._whole))
        course.first = offset if course.first is None else course.first
        course.last = offset
        stream = self._streams.get(name)
        if stream is None and decoded.eos and not len(decoded.samples):
            return
        verdict = None if stream is None else judge(stream, decoded, self._options)
        if stream is not None and verdict is not None and verdict.ends:
            self._end(stream)
            stream = None
        if stream is None:
            over = self._over.get(name, ())
            if decoded.session is not None and decoded.session in over[:-1]:
                return
            stream = self._streams[name] = open_stream(decoded, record.key, self._partition, offset, None)
            stream.replaced = tuple(session for session in over if session != decoded.session)
            course.starts.append(offset)
        elif verdict is not None and (verdict.refused or verdict.dropped):
            return
        elif verdict is not None and verdict.resets:
            stream.rate_hz = decoded.rate_hz
        follow(stream, decoded, offset, 0 if verdict is None else verdict.gap)
        if decoded.eos:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._over[stream.id] = ended_sessions(stream)
        del self._streams[stream.id]


async def courses_of(
    log: Log,
    partition: TopicPartition,
    end: int,
    decoder: Decoder,
    options: StreamOptions,
    wanted: frozenset[str],
) -> dict[str, Course]:
    """The courses of streams over the records that are kept below `end`; unknown ones are left out. Raises LogError."""
    kept = (await log.offsets([partition]))[partition]
    courses = _Courses(partition.partition, wanted, options, whole=not kept.begin)
    async for batch in records_between(log, partition, kept.begin, end):
        await asyncio.to_thread(courses.take, batch.records, decoder)
    return courses.found


async def told_starts(log: Log, topic: str, source: str, streams: frozenset[StreamKey]) -> dict[StreamKey, list[int]]:
    """Where a pipeline has said that these streams began. topic: its stream events; source: its `ce_source`."""
    found: dict[StreamKey, list[int]] = {}
    mine = ("ce_source", source.encode())
    there = await log.topics()
    names = [TopicPartition(topic, n) for n in range(there[topic].partitions)] if topic in there else []
    for name, kept in (await log.offsets(names)).items():
        async for batch in records_between(log, name, kept.begin, kept.end):
            for message in (decode(record) for record in batch.records if mine in record.headers):
                key = StreamKey(name.partition, message.body.stream) if isinstance(message.body, StreamEvent) else None
                if key in streams and message.type == "streamer.stream.started.v1":
                    found.setdefault(key, []).append(int(message.id.split("/")[2]))
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept snapshot of a stream: true for `position`, written by `model`."""

    position: int
    model: str
    record: Record


async def kept_snapshots(log: Log, topic: str, partition: int, streams: Iterable[str]) -> dict[str, list[Kept]]:
    """The snapshots of streams that are still kept, by stream. None of them was looked into. Raises LogError."""
    found: dict[str, list[Kept]] = {name: [] for name in streams}
    there = await log.topics()
    if topic not in there or partition >= there[topic].partitions:
        return found
    name = TopicPartition(topic, partition)
    kept = (await log.offsets([name]))[name]
    async for batch in records_between(log, name, kept.begin, kept.end):
        for record in batch.records:
            mine = found.get((record.key or b"").decode(errors="replace"))
            if mine is None:
                continue
            try:
                header = peek(record.value or b"")
            except StateMismatch:
                continue  # whoever wrote that, it is no snapshot to begin with
            if header.kind == "state":
                mine.append(Kept(header.position, header.model, record))
    return found


async def records_between(log: Log, partition: TopicPartition, begin: int, end: int) -> AsyncIterator[RecordBatch]:
    """The records of [begin, end) of a partition, batch by batch."""
    if begin >= end:
        return
    async with log.reader({partition: begin}) as reader:
        while reader.position(partition) < end:
            for batch in await reader.read(max_records=_READ, timeout_s=_READ_TIMEOUT_S):
                if records := [record for record in batch.records if record.offset < end]:
                    yield RecordBatch(partition, records, records[-1].offset + 1)
