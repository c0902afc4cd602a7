"""What a live source has captured and the log has not yet taken: bounded in seconds, the oldest dropped and marked.

Law: samples captured = samples taken out + samples in the gaps marked on records taken out. Pure: no clock, no log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streamer.codecs.audio import samples_in
from streamer.codecs.headers import CONTENT_TYPE, EOS, GAP, SAMPLE_INDEX, SEQ, gap_header, parse_gap
from streamer.records import NewRecord

MAX_RECORDS = 100_000
"""Bound for sources whose records carry no time."""


class _Owed(NamedTuple):
    samples: int
    reason: str
    last: NewRecord


class LiveBuffer:
    """A queue of records in order of capture; beyond `buffer_s` seconds the oldest are dropped."""

    def __init__(self, buffer_s: float, max_records: int = MAX_RECORDS) -> None:
        self._limit_ms = buffer_s * 1000
        self._max_records = max_records
        self._records: deque[NewRecord] = deque()
        self._ends: list[NewRecord] = []
        self._owed: dict[bytes | None, _Owed] = {}
        self.dropped_records = 0
        self.dropped_samples = 0

    def __len__(self) -> int:
        return len(self._records) + len(self._ends)

    def put(self, records: Iterable[NewRecord]) -> None:
        """Add what was captured; the newest record is never dropped."""
        for record in records:
            self._records.append(record)
            while len(self._records) > 1 and self._over():
                self._drop(self._records.popleft())

    def take(self, most: int) -> list[NewRecord]:
        """The oldest records, gaps marked on them."""
        taken, self._ends = self._ends, []
        while self._records and len(taken) < most:
            taken.append(self._marked(self._records.popleft()))
        return taken

    def rest(self) -> list[NewRecord]:
        """Everything, and an empty end for each stream whose last records were dropped; for when no more come."""
        taken = self.take(len(self._records) + len(self._ends))
        for owed in list(self._owed.values()):
            taken.append(self._marked(_end(owed.last)))
        return taken

    def _over(self) -> bool:
        oldest, newest = self._records[0].timestamp_ms, self._records[-1].timestamp_ms
        if len(self._records) > self._max_records:
            return True
        return oldest is not None and newest is not None and newest - oldest > self._limit_ms

    def _drop(self, record: NewRecord) -> None:
        headers = dict(record.headers)
        samples = samples_of(record)
        self.dropped_records += 1
        self.dropped_samples += samples
        before, _ = parse_gap(headers[GAP]) if GAP in headers else (0, "")
        owed = self._owed.get(record.key)
        total = samples + before + (owed.samples if owed else 0)
        self._owed[record.key] = _Owed(total, "overflow", record)
        if EOS in headers:
            self._ends.append(self._marked(_end(record)))

    def _marked(self, record: NewRecord) -> NewRecord:
        owed = self._owed.pop(record.key, None)
        if owed is None:
            return record
        kept = tuple(h for h in record.headers if h[0] != GAP)
        own = [parse_gap(value)[0] for name, value in record.headers if name == GAP]
        return record._replace(headers=(*kept, gap_header(owed.samples + sum(own), owed.reason)))


def samples_of(record: NewRecord) -> int:
    """What a record counts for in gaps: the samples of audio, 1 for an event, 0 for a bare end."""
    if not record.value:
        return 0
    kind = dict(record.headers).get(CONTENT_TYPE, b"")
    return samples_in(record.value, kind) if kind.startswith(b"audio/") else 1


def end_after(record: NewRecord) -> NewRecord:
    """The bare end of the stream whose last record was `record`."""
    headers = dict(record.headers)
    if SEQ in headers:
        headers[SEQ] = b"%d" % (int(headers[SEQ]) + 1)
    return _bare(record, headers)


def _end(record: NewRecord) -> NewRecord:
    """The bare end that stands in the place of a dropped record."""
    return _bare(record, dict(record.headers))


def _bare(record: NewRecord, headers: dict[str, bytes]) -> NewRecord:
    if SAMPLE_INDEX in headers:
        headers[SAMPLE_INDEX] = b"%d" % (int(headers[SAMPLE_INDEX]) + samples_of(record))
    headers.pop(GAP, None)
    headers[EOS] = b"1"
    return record._replace(value=b"", headers=tuple(headers.items()))


def by_partition(records: Sequence[NewRecord], partitions: Sequence[int]) -> dict[int, list[NewRecord]]:
    """Records grouped by the partition beside each, their order kept."""
    groups: dict[int, list[NewRecord]] = {}
    for record, partition in zip(records, partitions, strict=True):
        groups.setdefault(partition, []).append(record)
    return groups
