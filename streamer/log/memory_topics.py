"""Topics in memory: lists of records with retention and compaction. Knows no groups and never waits."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

from streamer.errors import OffsetGone
from streamer.log.base import TopicInfo
from streamer.log.batching import fair_shares
from streamer.records import NewRecord, Record, RecordBatch, TopicPartition

_OFFSET = itemgetter(2)
_FIRST_COMPACTION_RECORDS = 256


class MemoryPartition:
    """One partition: records in offset order (with holes once compacted), and who waits for more."""

    def __init__(self, name: TopicPartition, info: TopicInfo, tombstone_retention_ms: int) -> None:
        self.name = name
        self.begin = 0
        self.end = 0
        self.records: list[Record] = []
        self.waiters: set[asyncio.Event] = set()
        self._compact = info.compact
        self._retention_ms = info.retention_ms
        self._tombstone_retention_ms = tombstone_retention_ms
        self._compact_at = _FIRST_COMPACTION_RECORDS
        self._batches: list[tuple[int, int]] = []  # (first offset, time of append in ms) of each batch still kept

    def append(self, records: Sequence[NewRecord], now_ms: int) -> int:
        """Append and wake whoever waits; returns the first record's offset."""
        first = self.end
        if not records:
            return first
        topic, partition = self.name
        self.records.extend(
            Record(topic, partition, offset, now_ms if time_ms is None else time_ms, key, value, tuple(headers))
            for offset, (key, value, headers, time_ms) in enumerate(records, first)
        )
        self.end += len(records)
        self._batches.append((first, now_ms))
        self.expire(now_ms)
        if self._compact and len(self.records) >= self._compact_at:
            self._drop_superseded(now_ms)
        for waiter in self.waiters:
            waiter.set()
        return first

    def expire(self, now_ms: int) -> None:
        """Drop the batches appended longer ago than the retention; what is dropped is gone for every reader."""
        if self._retention_ms is None or not self._batches or self._batches[0][1] >= now_ms - self._retention_ms:
            return
        kept = next((i for i, batch in enumerate(self._batches) if batch[1] >= now_ms - self._retention_ms), None)
        self.begin = self.end if kept is None else self._batches[kept][0]
        del self._batches[: len(self._batches) if kept is None else kept]
        del self.records[: self._index(self.begin)]

    def available(self, position: int) -> int:
        """Records kept at or above `position`; at least 1 when only a hole lies before the end."""
        return max(len(self.records) - self._index(position), int(position < self.end))

    def read(self, position: int, max_records: int) -> RecordBatch:
        """The next records from `position`. The caller has checked that it is kept."""
        index = self._index(position)
        records = self.records[index : index + max_records]
        at_end = index + len(records) == len(self.records)
        return RecordBatch(self.name, records, self.end if at_end else records[-1].offset + 1)

    def check_kept(self, position: int) -> None:
        """Raises OffsetGone when `position` is below the lowest offset kept or beyond the end."""
        if not self.begin <= position <= self.end:
            raise OffsetGone(
                f"{self.name} keeps offsets {self.begin} to {self.end}; {position} was asked for: "
                "start from a kept offset, or keep records longer (retention_ms)"
            )

    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset whose record has this time or a later one, else the end."""
        return next((record.offset for record in self.records if record.timestamp_ms >= timestamp_ms), self.end)

    def _index(self, offset: int) -> int:
        return bisect_left(self.records, offset, key=_OFFSET)

    def _drop_superseded(self, now_ms: int) -> None:
        """Keep each key's latest record; a tombstone stays a while, so that slow readers still learn of it."""
        latest = {record.key: record.offset for record in self.records}
        oldest_tombstone_ms = now_ms - self._tombstone_retention_ms
        self.records = [
            record
            for record in self.records
            if latest[record.key] == record.offset
            and (record.value is not None or self._appended_ms(record.offset) >= oldest_tombstone_ms)
        ]
        used = {self._batch_index(record.offset) for record in self.records}
        self._batches = [batch for i, batch in enumerate(self._batches) if i in used]
        self._compact_at = max(_FIRST_COMPACTION_RECORDS, 2 * len(self.records))

    def _batch_index(self, offset: int) -> int:
        return bisect_right(self._batches, offset, key=itemgetter(0)) - 1

    def _appended_ms(self, offset: int) -> int:
        return self._batches[self._batch_index(offset)][1]


def take(
    partitions: Sequence[MemoryPartition], positions: dict[TopicPartition, int], max_records: int
) -> list[RecordBatch]:
    """Read fairly from all `partitions` and move their `positions`. Raises OffsetGone."""
    for partition in partitions:
        partition.check_kept(positions[partition.name])
    shares = fair_shares([partition.available(positions[partition.name]) for partition in partitions], max_records)
    batches = []
    for partition, share in zip(partitions, shares, strict=True):
        if share:
            batch = partition.read(positions[partition.name], share)
            positions[partition.name] = batch.next_offset
            batches.append(batch)
    return batches
