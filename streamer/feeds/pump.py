"""From a feed into a topic: partitions by key, patience with a log that is away, and what to do when it is slow.

Files and pipes wait on `append`. A live source cannot: it is buffered for a stated time, then its oldest records are
dropped and the gap is marked. What stored data has been fed is kept in the topic `feeds` (see `feeds.progress`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from streamer.codecs.headers import NO_HEADERS, StreamHeaders, parse_headers
from streamer.errors import LogError, LogUnavailable, Malformed, TopicMissing
from streamer.feeds.base import Feed
from streamer.feeds.buffer import LiveBuffer, by_partition, end_after
from streamer.feeds.pace import SYSTEM_CLOCK, Clock
from streamer.feeds.progress import Progress, ProgressTopic, Resumable, Run
from streamer.log.base import Log
from streamer.log.partitioner import partition_of
from streamer.records import NewRecord

BATCH_RECORDS = 512
PROGRESS_EVERY = 50
"""Records of a run between two notes of its progress: what a crash feeds again at most."""
T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class PumpReport:
    """What has been pumped so far; it is kept up to date while the pump runs.

    records, value_bytes: appended. skipped_records: fed by an earlier run. dropped_records, dropped_samples: lost to
    overflow, every one of them in a marked gap. ended_streams: streams whose end was appended.
    """

    records: int = 0
    value_bytes: int = 0
    skipped_records: int = 0
    dropped_records: int = 0
    dropped_samples: int = 0
    ended_streams: int = 0


async def pump(
    feed: Feed,
    log: Log,
    topic: str,
    *,
    buffer_s: float = 10.0,
    patience_s: float = 60.0,
    stop: asyncio.Event | None = None,
    report: PumpReport | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> PumpReport:
    """Append all that `feed` gives to `topic`, until it ends or `stop` is set; what was captured by then is written.

    buffer_s: how long a live source is held back while the log is slow. patience_s: how long a log may be away before
    the pump gives up. Streams that are stopped get their end, but not those of a `Resumable` feed, which can continue.

    Raises InputError from the feed, TopicMissing, RecordTooLarge, LogFull, PermissionDenied, LogUnavailable.
    """
    report = PumpReport() if report is None else report
    stop = asyncio.Event() if stop is None else stop
    patient = _Patience(patience_s, clock)
    found = (await patient.keep(log.topics)).get(topic)
    if found is None:
        raise TopicMissing(f"there is no topic {topic}; create it first: python -m streamer topics")
    writer = _Writer(log, topic, found.partitions, patient, report, remember_open=not isinstance(feed, Resumable))
    if feed.live:
        await _pump_live(feed, writer, buffer_s, stop, report)
    else:
        await _pump_stored(feed, writer, ProgressTopic(log, topic), patient, stop, report)
    return report


async def _pump_stored(
    feed: Feed, writer: _Writer, progress: ProgressTopic, patient: _Patience, stop: asyncio.Event, report: PumpReport
) -> None:
    if not isinstance(feed, Resumable):
        async with aclosing(_until(feed.batches(), stop)) as batches:
            async for batch in batches:
                await writer.write(batch)
        if stop.is_set():
            await writer.end_open_streams()
        return
    runs = await patient.keep(progress.load)
    feed.resume(dict(runs))
    book = _Book(runs)
    try:
        async with aclosing(_until(feed.batches(), stop)) as batches:
            async for batch in batches:
                fresh = book.unseen(batch)
                report.skipped_records += len(batch) - len(fresh)
                await writer.write(fresh)
                book.note(fresh)
                await book.write(progress)
    finally:
        await book.write(progress, all_of_them=True)


async def _pump_live(feed: Feed, writer: _Writer, buffer_s: float, stop: asyncio.Event, report: PumpReport) -> None:
    buffer = LiveBuffer(buffer_s)
    more = asyncio.Event()

    async def listen() -> None:
        try:
            async with aclosing(_until(feed.batches(), stop)) as batches:
                async for batch in batches:
                    buffer.put(batch)
                    report.dropped_records, report.dropped_samples = buffer.dropped_records, buffer.dropped_samples
                    more.set()
        finally:
            more.set()

    listener = asyncio.create_task(listen())
    try:
        while not listener.done():
            await more.wait()
            more.clear()
            while records := buffer.take(BATCH_RECORDS):
                await writer.write(records)
            await asyncio.sleep(0)  # let the listener be done when it has said that it ends
        await writer.write(buffer.rest())
        await writer.end_open_streams()
    finally:
        listener.cancel()
        await asyncio.wait([listener])
    listener.result()


async def _until(
    batches: AsyncIterator[Sequence[NewRecord]], stop: asyncio.Event
) -> AsyncGenerator[Sequence[NewRecord], None]:
    """`batches` until `stop` is set; a batch that is then still being made is given up."""
    stopping = asyncio.create_task(stop.wait())
    try:
        while True:
            coming: asyncio.Task[Sequence[NewRecord] | None] = asyncio.create_task(_next(batches))
            try:
                await asyncio.wait([coming, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait([coming])
            if coming.cancelled() or (batch := coming.result()) is None:
                return
            yield batch
            if stopping.done():
                return
    finally:
        stopping.cancel()
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


async def _next(batches: AsyncIterator[Sequence[NewRecord]]) -> Sequence[NewRecord] | None:
    return await anext(batches, None)


class _Patience:
    """Tries again while a log is away, with growing pauses, until patience ends."""

    def __init__(self, patience_s: float, clock: Clock) -> None:
        self._patience_s = patience_s
        self._clock = clock

    async def keep(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`. Raises LogUnavailable when it stays away."""
        since_s: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except LogUnavailable:
                now_s = self._clock.now_s()
                since_s = now_s if since_s is None else since_s
                if now_s - since_s + pause_s > self._patience_s:
                    raise
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class _Writer:
    """Appends records to the partitions of their keys: one append a partition at a time, so that order is kept."""

    def __init__(
        self, log: Log, topic: str, partitions: int, patient: _Patience, report: PumpReport, *, remember_open: bool
    ) -> None:
        self._log = log
        self._topic = topic
        self._partitions = partitions
        self._patient = patient
        self._report = report
        self._remember_open = remember_open
        self._open_streams: dict[bytes | None, NewRecord] = {}

    async def write(self, records: Sequence[NewRecord]) -> None:
        """Append records; raises the LogError of the partition that failed."""
        for start in range(0, len(records), BATCH_RECORDS):
            await self._write(records[start : start + BATCH_RECORDS])

    async def end_open_streams(self) -> None:
        """Append a bare end to every stream that has none."""
        await self.write([end_after(last) for last in self._open_streams.values()])

    async def _write(self, records: Sequence[NewRecord]) -> None:
        groups = by_partition(records, [partition_of(record.key or b"", self._partitions) for record in records])
        try:
            async with asyncio.TaskGroup() as tasks:
                for partition, group in groups.items():
                    tasks.create_task(self._append(partition, group))
        except* LogError as errors:
            raise _first(errors) from None
        for record in records:
            self._report.records += 1
            self._report.value_bytes += len(record.value or b"")
            if _place(record).eos:
                self._report.ended_streams += 1
                self._open_streams.pop(record.key, None)
            elif self._remember_open:
                self._open_streams[record.key] = record

    async def _append(self, partition: int, records: Sequence[NewRecord]) -> None:
        await self._patient.keep(lambda: self._log.append(self._topic, partition, records))


class _Book:
    """How far each run has got, and which of it is yet to be noted in the log."""

    def __init__(self, runs: dict[Run, Progress]) -> None:
        self._runs = runs
        self._noted: dict[Run, int] = {run: progress.next_seq for run, progress in runs.items()}
        self._dirty: set[Run] = set()

    def unseen(self, records: Sequence[NewRecord]) -> list[NewRecord]:
        """The records that no earlier run has appended."""
        return [record for record in records if not self._seen(record)]

    def note(self, records: Sequence[NewRecord]) -> None:
        """These have been appended."""
        for record in records:
            place = _place(record)
            run = _run(record, place)
            if run is None or place.seq is None:
                continue
            before = self._runs.get(run)
            start_ms = record.timestamp_ms if before is None else before.start_ms
            self._runs[run] = Progress(place.seq + 1, place.eos, start_ms)
            self._dirty.add(run)

    async def write(self, topic: ProgressTopic, *, all_of_them: bool = False) -> None:
        """Note in the log what is due: runs that ended or are `PROGRESS_EVERY` records further than noted."""
        due = {run: self._runs[run] for run in self._dirty if all_of_them or self._far(run)}
        await topic.write(due)
        self._dirty -= due.keys()
        self._noted.update({run: progress.next_seq for run, progress in due.items()})

    def _far(self, run: Run) -> bool:
        progress = self._runs[run]
        return progress.done or progress.next_seq - self._noted.get(run, 0) >= PROGRESS_EVERY

    def _seen(self, record: NewRecord) -> bool:
        place = _place(record)
        run = _run(record, place)
        if run is None or place.seq is None or (before := self._runs.get(run)) is None:
            return False
        return before.done or place.seq < before.next_seq


def _run(record: NewRecord, place: StreamHeaders) -> Run | None:
    if place.session is None or record.key is None:
        return None
    return Run(record.key.decode("utf-8", "replace"), place.session)


def _place(record: NewRecord) -> StreamHeaders:
    """A record's bookkeeping; a feed may pass on records whose headers are for the worker to refuse."""
    try:
        return parse_headers(record.headers)
    except Malformed:
        return NO_HEADERS


def _first(errors: BaseExceptionGroup[LogError]) -> LogError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
