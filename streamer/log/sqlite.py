"""The embedded log: topics, groups and offsets in one SQLite file, for several processes on one machine.

An append or commit is one `BEGIN IMMEDIATE` transaction, durable (`synchronous=FULL`) when the call returns; appends
that arrive together share one. Batches are encoded before the lock is taken. Readers hold no snapshot between calls, so
that the write-ahead log stays small. Retention counts from the time of the append, whatever the records' own
timestamps say. Kill -9 loses nothing that a call has returned for.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from streamer.errors import LogError
from streamer.log import sqlite_groups, sqlite_records
from streamer.log.base import Commit, Committed, OffsetRange, TopicInfo, TopicSpec
from streamer.log.clock import wall_clock_ms
from streamer.log.sqlite_bell import Bell
from streamer.log.sqlite_consumer import SqliteConsumer, SqliteReader
from streamer.log.sqlite_file import SqliteThread, Synchronous, check_local, keep_wal_small, transaction
from streamer.log.sqlite_records import Prepared
from streamer.records import Append, NewRecord, TopicPartition

T = TypeVar("T")


class SqliteLog:
    """A log in the file `path`, created when missing, with its folder.

    synchronous: FULL survives power loss; NORMAL only the end of the process. busy_timeout_s: how long to wait for
    another process's transaction. lease_s: how long a silent member keeps its partitions (one whose process ended
    loses them at once). settle_timeout_s: how long a revoked partition waits for its owner. now_ms: the clock of
    appends and retention. tombstone_retention_ms: how long compaction keeps a tombstone.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout_s: float = 30.0,
        lease_s: float = 10.0,
        settle_timeout_s: float = 6.0,
        now_ms: Callable[[], int] = wall_clock_ms,
        tombstone_retention_ms: int = 60_000,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.lease_s = lease_s
        self.settle_timeout_s = settle_timeout_s
        self._now_ms = now_ms
        self._tombstone_retention_ms = tombstone_retention_ms
        self._writer = SqliteThread(self.path, synchronous, busy_timeout_s, "writer")
        self._reader = SqliteThread(self.path, synchronous, busy_timeout_s, "reader")
        self.bell = Bell(self._reader)
        self._waiting: list[tuple[Prepared, asyncio.Future[int]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().run_in_executor(None, self._prepare_folder)
        try:
            await self._writer.open()
            await self._reader.open()
        except LogError:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flusher is not None:
            await self._flusher
        await self._close()

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Create what is missing, all or nothing. Raises TopicMismatch."""
        wanted = list(specs)

        def work(connection: sqlite3.Connection) -> None:
            if sqlite_records.create_topics(connection, wanted):
                sqlite_groups.rebalance_all(connection)

        await self.write(work)

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics with their records; their owners get a `Revoked(lost=True)`."""
        unwanted = list(names)

        def work(connection: sqlite3.Connection) -> None:
            if sqlite_records.delete_topics(connection, unwanted):
                sqlite_groups.rebalance_all(connection)

        await self.write(work)

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics by name."""
        return await self.read(sqlite_records.topics)

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        """How many partitions these topics have; missing ones are left out."""
        there = await self.topics()
        return {name: there[name].partitions for name in names if name in there}

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append a batch durably; returns the first record's offset. Appends that wait together share a transaction."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((sqlite_records.prepare(Append(topic, partition, records)), done))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """What is kept of each partition."""
        names = list(partitions)
        return await self.read(lambda connection: sqlite_records.offsets(connection, names))

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        """The first offset with this time or a later one, else the end."""
        return await self.read(lambda connection: sqlite_records.offset_at(connection, partition, timestamp_ms))

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        """What a group has committed; partitions without an offset are left out."""
        names = list(partitions)

        def work(connection: sqlite3.Connection) -> dict[TopicPartition, Committed]:
            found = {name: sqlite_groups.committed(connection, group, name) for name in names}
            return {name: at for name, at in found.items() if at is not None}

        return await self.read(work)

    def reader(self, start: Mapping[TopicPartition, int]) -> SqliteReader:
        """A reader of given partitions from given offsets, in no group."""
        return SqliteReader(self, start)

    def consumer(self, group: str, topics: Sequence[str]) -> SqliteConsumer:
        """A new member of `group`; it joins when its context is entered."""
        return SqliteConsumer(self, group, topics)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` in one snapshot, on the reading thread."""

        def in_snapshot(connection: sqlite3.Connection) -> T:
            with transaction(connection, immediate=False):
                return work(connection)

        return await self._reader.run(in_snapshot)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` in one durable transaction, on the writing thread; nothing of it when it raises."""

        def in_transaction(connection: sqlite3.Connection) -> T:
            with transaction(connection):
                result = work(connection)
            keep_wal_small(connection, self.path)
            return result

        result = await self._writer.run(in_transaction)
        self.bell.ring()
        return result

    async def commit(
        self, group: str, member: str, epochs: Mapping[TopicPartition, int], commits: Sequence[Commit]
    ) -> None:
        """All of `commits` in one transaction, the leases checked inside it. `epochs`: what `member` believes to own.

        Raises Fenced, RecordTooLarge, TopicMissing, LogFull; then nothing was written.
        """
        batches = await self._reader.run(lambda _: _prepare_all(commits))

        def work(connection: sqlite3.Connection) -> None:
            for commit in commits:
                epoch = epochs.get(commit.partition)
                sqlite_groups.check_lease(connection, group, member, commit.partition, epoch)
            now_ms = self._now_ms()
            for batch in batches:
                sqlite_records.append(connection, batch, now_ms, self._tombstone_retention_ms)
            for commit in commits:
                position = Committed(commit.offset, commit.metadata)
                sqlite_groups.store_offset(connection, group, commit.partition, position)

        await self.write(work)

    async def _flush(self) -> None:
        """Append what waits, in one transaction, until nothing waits."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            results: Sequence[int | Exception]
            try:
                results = await self.write(partial(self._append_all, batches=[batch for batch, _ in waiting]))
            except (LogError, TypeError, ValueError, OverflowError) as error:  # or a record not made of bytes
                results = [error] * len(waiting)
            for (_, done), result in zip(waiting, results, strict=True):
                if done.cancelled():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._flusher = None

    def _append_all(self, connection: sqlite3.Connection, batches: Sequence[Prepared]) -> list[int | LogError]:
        """Append each batch; one that is refused (missing topic, too large) harms no other."""
        results: list[int | LogError] = []
        now_ms = self._now_ms()
        for batch in batches:
            try:
                results.append(sqlite_records.append(connection, batch, now_ms, self._tombstone_retention_ms))
            except LogError as refused:
                results.append(refused)
        return results

    def _prepare_folder(self) -> None:
        """Raises LogError for a network file system, and where the folder cannot be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f"the folder of {self.path} cannot be made ({error}): choose another path") from error
        with contextlib.suppress(FileNotFoundError):  # only Linux has it
            check_local(self.path.resolve(), Path("/proc/mounts").read_text())

    async def _close(self) -> None:
        await self.bell.close()
        await self._reader.close()
        await self._writer.close()


def _prepare_all(commits: Sequence[Commit]) -> list[Prepared]:
    return [
        sqlite_records.prepare(append)
        for commit in commits
        for part in (commit.outputs, commit.states, commit.floor, commit.tombstones)
        for append in part
    ]
