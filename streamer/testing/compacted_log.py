"""A log whose compacted topics are always compacted to the end: the worst that a reader of a changelog may find.

Of each key only the latest record is there, and no tombstone is: a broker's cleaner may have been there a moment ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from streamer.log.base import DEFAULT_MAX_RECORDS, Log, Reader
from streamer.records import Record, RecordBatch, TopicPartition
from streamer.testing.passing import PassingLog


class CompactedLog(PassingLog):
    """`log`, whose readers find nothing in its compacted topics that was superseded."""

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader:
        return _CompactedReader(self.log, start)


class _CompactedReader:
    def __init__(self, log: Log, start: Mapping[TopicPartition, int]) -> None:
        self._reader = log.reader(start)
        self._log = log

    async def __aenter__(self) -> Self:
        await self._reader.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reader.__aexit__(kind, error, trace)

    def position(self, partition: TopicPartition) -> int:
        return self._reader.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._reader.seek(partition, offset)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        batches = await self._reader.read(max_records=max_records, timeout_s=timeout_s)
        return [await self._compacted(batch) for batch in batches]

    async def _compacted(self, batch: RecordBatch) -> RecordBatch:
        if not (await self._log.topics())[batch.partition.topic].compact:
            return batch
        latest = {record.key: record.offset for record in await self._everything(batch.partition)}
        kept = [r for r in batch.records if r.offset == latest[r.key] and r.value is not None]
        return RecordBatch(batch.partition, kept, batch.next_offset)

    async def _everything(self, partition: TopicPartition) -> list[Record]:
        begin, end = (await self._log.offsets([partition]))[partition]
        found: list[Record] = []
        async with self._log.reader({partition: begin}) as reader:
            while reader.position(partition) < end:
                for batch in await reader.read(timeout_s=1.0):
                    found += batch.records
        return found
