"""Record and replay: a topic or a part of it into a file, and a file or a part of a topic into a topic, at any speed.

Replay writes partitions itself: where the target has as many as the source, each record goes where it was (a key whose
partition was chosen in some other way stays there); where counts differ, the key decides. Keys, values, headers and
times are the original's, so that the outputs are the same again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from streamer.codecs.headers import SESSION
from streamer.errors import InputError
from streamer.feeds.buffer import by_partition
from streamer.feeds.own_thread import OwnThread
from streamer.feeds.pace import SYSTEM_CLOCK, Clock, Pace
from streamer.feeds.recording import Origin, Recording, RecordingWriter
from streamer.feeds.topic_source import WHOLE, Span, TopicSource, topic_info
from streamer.log.base import Log
from streamer.log.partitioner import partition_of
from streamer.records import NewRecord, Record

_BATCH = 512
_POLL_S = 0.5


@dataclass(slots=True)
class ReplayReport:
    """What was recorded or replayed so far. truncated: the recording had been cut off."""

    records: int = 0
    truncated: bool = False


async def record(
    log: Log,
    topic: str,
    path: Path | str,
    span: Span = WHOLE,
    *,
    stop: asyncio.Event | None = None,
    report: ReplayReport | None = None,
) -> ReplayReport:
    """Write a topic, or `span` of it, to a file that is not there yet; ends with the span, or when `stop` is set.

    Raises TopicMissing, LogError, InputError (the file exists or cannot be written).
    """
    report = ReplayReport() if report is None else report
    source = TopicSource(log, topic, span, stop)
    info = await source.info()
    created_ms = time.time_ns() // 1_000_000
    with RecordingWriter(path, Origin(topic, info.partitions, created_ms)) as writer:
        async with OwnThread() as thread, aclosing(source.batches()) as batches:
            async for batch in batches:
                await thread.run(writer.write, batch)
                report.records += len(batch)
    return report


@dataclass(slots=True)
class FileSource:
    """The records of a recording."""

    recording: Recording

    async def batches(self) -> AsyncGenerator[list[Record], None]:
        """Records in the order of the file. Raises InputError for a damaged file."""
        records = self.recording.records()
        while batch := await asyncio.to_thread(_take, records):
            yield batch


class ReplayFeed:
    """A recording or a span of a topic as a feed; `replay` keeps partitions besides."""

    def __init__(
        self,
        source: FileSource | TopicSource,
        *,
        speed: float = 1.0,
        session_suffix: str = "",
        name: str = "replay",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """speed: as fast as the records' times say, N times faster, or 0 as fast as possible. session_suffix: added to
        every `x-session`, so that a worker takes it for a new run (needed when replaying into the same topic)."""
        self._source = source
        self._pace = Pace(speed, clock)
        self._suffix = session_suffix
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def live(self) -> bool:
        return False

    async def batches(self) -> AsyncGenerator[Sequence[NewRecord], None]:
        """The records, in their order and at their pace."""
        async with aclosing(self.recorded()) as batches:
            async for batch in batches:
                yield [again for _, again in batch]

    async def recorded(self) -> AsyncGenerator[list[tuple[Record, NewRecord]], None]:
        """Each record as it was and as it is to be written."""
        latest_ms: int | None = None
        async with aclosing(self._source.batches()) as batches:
            async for batch in batches:
                pending: list[tuple[Record, NewRecord]] = []
                for original in batch:
                    # Times may go back within a partition: only one that is later than all before is waited for.
                    if latest_ms is None or original.timestamp_ms > latest_ms:
                        if pending and self._pace.holds_back:
                            yield pending
                            pending = []
                        latest_ms = original.timestamp_ms
                        await self._pace.until(latest_ms / 1000)
                    pending.append((original, self._again(original)))
                if pending:
                    yield pending

    def _again(self, original: Record) -> NewRecord:
        headers = tuple((name, value) for name, value in original.headers)
        if self._suffix:
            suffix = self._suffix.encode()
            headers = tuple((name, value + suffix if name == SESSION else value) for name, value in headers)
            if all(name != SESSION for name, _ in headers):
                headers = (*headers, (SESSION, suffix))
        return NewRecord(original.key, original.value, headers, original.timestamp_ms)


async def replay(
    feed: ReplayFeed,
    log: Log,
    topic: str,
    source_partitions: int,
    *,
    stop: asyncio.Event | None = None,
    report: ReplayReport | None = None,
) -> ReplayReport:
    """Write what `feed` gives to `topic`; into the partitions it came from where the counts match.

    Raises TopicMissing, LogError, InputError for a damaged file.
    """
    report = ReplayReport() if report is None else report
    target = await topic_info(log, topic)
    same = target.partitions == source_partitions
    async with aclosing(feed.recorded()) as batches:
        async for batch in batches:
            places = [
                original.partition if same else partition_of(original.key or b"", target.partitions)
                for original, _ in batch
            ]
            for partition, records in by_partition([again for _, again in batch], places).items():
                await log.append(topic, partition, records)
            report.records += len(batch)
            if stop is not None and stop.is_set():
                break
    return report


async def open_source(source: Path | str, log: Log | None, span: Span = WHOLE) -> tuple[FileSource | TopicSource, int]:
    """The recording at a path, or else the topic of that name in `log`; and how many partitions it has.

    Raises InputError when it is neither.
    """
    if await asyncio.to_thread(Path(source).is_file):
        recording = Recording(source)
        return FileSource(recording), recording.origin.partitions
    if log is not None and (info := (await log.topics()).get(str(source))) is not None:
        return TopicSource(log, str(source), span), info.partitions
    raise InputError(f"{source} is neither a recording nor a topic")


def _take(records: Iterator[Record]) -> list[Record]:
    return list(islice(records, _BATCH))
