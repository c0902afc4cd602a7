"""Reading a changelog: the latest record of every key, and nothing of what was before.

A reader of its own costs more than a partition's states, so partitions that are opened at the same time share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np

from streamer.columns import KEY, RecordColumns
from streamer.log.base import Log, OffsetRange, Reader
from streamer.records import Record, RecordBatch, TopicPartition

Latest = dict[bytes, Record]
"""The latest record of every key that no tombstone ended, in changelog order."""
GATHER_S = 0.002
"""Partitions that are asked for within this time share a reader."""
_READ_S = 1.0


def take(latest: Latest, records: Sequence[Record]) -> None:
    """Enter records that lie behind those of before."""
    for record in _last_of_each(records):
        if record.key is not None:
            latest.pop(record.key, None)
            if record.value is not None:
                latest[record.key] = record


def _last_of_each(records: Sequence[Record]) -> Sequence[Record]:
    """The last record of every key at least, in their order; of columns no others are made."""
    if not isinstance(records, RecordColumns):
        return records
    raw, spans = records.raw, zip(records.starts[KEY].tolist(), records.ends[KEY].tolist(), strict=True)
    last = {raw[start:end]: place for place, (start, end) in enumerate(spans) if start <= end}
    return records.pick(np.array(sorted(last.values()), np.int64))


@dataclass(slots=True)
class Copied:
    """A partition as read so far. position: where reading goes on; nbytes: what the values take."""

    position: int
    latest: Latest = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(len(record.value or b"") for record in self.latest.values())

    def take(self, batch: RecordBatch) -> None:
        """Go on with what was read."""
        take(self.latest, batch.records)
        self.position = batch.next_offset


class _Shared:
    """One reader for some partitions. Who waits for one of them reads for all."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parts: dict[TopicPartition, Latest] = {}
        self._copied: dict[TopicPartition, int] = {}
        self._bounds: dict[TopicPartition, OffsetRange] = {}
        self._reader: Reader | None = None
        self._stack = AsyncExitStack()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._failure: Exception | None = None

    async def read(self, partition: TopicPartition) -> Latest:
        """One partition, whole; `join` comes before. Raises what the log raises, to all who wait."""
        async with self._turn:
            if self._failure is not None:
                raise self._failure
            try:
                reader = await self._open()
                while reader.position(partition) < self._bounds[partition].end:
                    for batch in await reader.read(timeout_s=_READ_S):
                        take(self._parts[batch.partition], batch.records)
            except asyncio.CancelledError:  # what a read that was broken off has taken, nobody knows
                self._reader, self._parts, self._copied = None, {name: {} for name in self._parts}, {}
                raise
            except Exception as error:
                self._failure = error
                raise
        return self._parts[partition]

    def join(self, partition: TopicPartition, copied: Copied | None) -> None:
        """`partition` is to be read too, behind what was copied of it."""
        self._parts[partition] = {}
        if copied is not None:
            self._parts[partition], self._copied[partition] = copied.latest, copied.position
        self._waiting += 1

    async def leave(self) -> None:
        """One who joined has what it came for, or waits no more."""
        self._waiting -= 1
        if not self._waiting:
            await self._stack.aclose()

    async def _open(self) -> Reader:
        if self._reader is None:
            self._bounds = dict(await self._log.offsets(self._parts))
            begins = {name: self._copied.get(name, bounds.begin) for name, bounds in self._bounds.items()}
            self._reader = await self._stack.enter_async_context(self._log.reader(begins))
        return self._reader


class Changelogs:
    """Reads partitions of changelogs, as many at once as are asked for at once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._gathering: _Shared | None = None

    async def read(self, partition: TopicPartition, copied: Copied | None = None) -> Latest:
        """What `partition` holds, of which `copied` need not be read again.

        'Read to the end' compares positions, not records. Raises LogUnavailable.
        """
        shared = self._gathering
        if shared is None:
            shared = self._gathering = _Shared(self._log)
        shared.join(partition, copied)
        try:
            await asyncio.sleep(GATHER_S)
            if self._gathering is shared:
                self._gathering = None
            return await shared.read(partition)
        finally:
            await shared.leave()
