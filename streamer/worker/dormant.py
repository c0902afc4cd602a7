"""Saved states that were read and not looked into yet: nothing is decoded until their streams go on."""

from __future__ import annotations

from collections.abc import Mapping

from streamer.records import Record
from streamer.worker.header import last_ms_of
from streamer.worker.results import StreamKey


class Dormant:
    """Dormant streams by partition, each in the latest record that is saved of it. nbytes: what the records hold.

    What a record says of its stream is not yet known to be true.
    """

    def __init__(self) -> None:
        self._records: dict[int, dict[StreamKey, Record]] = {}
        self._count = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: StreamKey) -> bool:
        return self.get(key) is not None

    @property
    def partitions(self) -> frozenset[int]:
        """Where streams lie dormant."""
        return frozenset(self._records)

    def lay(self, key: StreamKey, record: Record) -> None:
        """A stream lies in `record`."""
        partition, _ = key
        there = self._records.get(partition)
        if there is None:
            there = self._records[partition] = {}
        elif key in there:
            self.take(key)
        there[key] = record
        self._count += 1
        self.nbytes += len(record.value or b"")

    def lay_all(self, partition: int, records: Mapping[StreamKey, Record]) -> None:
        """Streams of a partition lie in these records."""
        if not records:
            return
        there = self._records.setdefault(partition, {})
        for key in there.keys() & records.keys():
            self.take(key)
        there.update(records)
        self._count += len(records)
        self.nbytes += sum(len(record.value or b"") for record in records.values())

    def get(self, key: StreamKey) -> Record | None:
        """What a stream lies in, if it lies dormant."""
        there = self._records.get(key.partition)
        return None if there is None else there.get(key)

    def take(self, key: StreamKey) -> Record | None:
        """What a stream lies in, if it lies dormant; it does no more."""
        there = self._records.get(key.partition)
        if there is None or (record := there.pop(key, None)) is None:
            return None
        self._count -= 1
        self.nbytes -= len(record.value or b"")
        return record

    def first(self, partition: int, most: int) -> list[StreamKey]:
        """Up to `most` dormant streams of a partition, those saved longest ago first."""
        return [key for key, _ in zip(self._records.get(partition, ()), range(most), strict=False)]

    def idle_since(self, time_ms: int, partition: int) -> list[StreamKey]:
        """Dormant streams of a partition whose last record is older than this, as far as they say."""
        there = self._records.get(partition, {})
        return [key for key, record in there.items() if last_ms_of(record.value or b"") < time_ms]

    def coldest(self) -> tuple[int, StreamKey] | None:
        """The time of the last record of the stream that has waited longest, and the stream; None without any."""
        every = (item for there in self._records.values() for item in there.items())
        return min(((last_ms_of(record.value or b""), key) for key, record in every), default=None)

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget every dormant stream of partitions that were lost."""
        for partition in partitions & self._records.keys():
            gone = self._records.pop(partition).values()
            self._count -= len(gone)
            self.nbytes -= sum(len(record.value or b"") for record in gone)
