"""Records of ours straight out of aiokafka 0.14's fetcher.

The client makes a record object of its own for every record, which we would look at once and throw away: with the
conversion that is a third of what reading costs. Here what it fetched hands out our records instead: as columns where
no record of a fetch has headers and none is compressed, else one by one. Checks of hashes, aborted transactions and
positions stay the client's. It leans on some names inside the client, which is why its version is pinned; the
conformance suite of the logs is the test.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.protocol.fetch import FetchResponse_v0

from streamer.columns import RecordColumns
from streamer.records import Record, make_record

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and latest timestamp, producer
id and epoch, base sequence, records (Apache Kafka protocol, "Record Batch")."""
_LENGTH = struct.Struct(">qi")
_MAGIC = 2
_COMPRESSED, _APPEND_TIME = 0x07, 0x08
_FEWEST_BYTES = 7
"""The least that a record takes."""
FEW_RECORDS = 16
"""So many are made one by one: columns cost some 20 us a fetch."""


def hand_out_ours(client: AIOKafkaConsumer, *, columns: bool = False) -> None:
    """From now on `client.getmany()` gives sequences of our `Record`s. To be called once, right after its start.

    columns: as columns wherever they can be; `load` first.
    """
    fetched = _Fetched(client._fetcher._records)
    client._fetcher._records = fetched
    if columns:
        client._fetcher._client = _Listening(client._fetcher._client, fetched)


def load() -> None:
    """Load what columns need: compiled code, which takes seconds the first time on a machine."""
    importlib.import_module("streamer.log.kafka_batches")


class _Fetched(dict[ClientPartition, Any]):
    """What was fetched and not handed out, by partition: a FetchResult or an error.

    raw: the last answer's bytes, nothing where nobody keeps them.
    """

    def __init__(self, known: dict[ClientPartition, Any]) -> None:
        super().__init__(known)
        self.raw: dict[ClientPartition, bytes] = {}

    def __setitem__(self, name: ClientPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            result._partition_records.__class__ = _OurRecords
            result._partition_records.raw = self.raw.pop(name, None)
            result.getall = partial(_hand_out, result)
        super().__setitem__(name, result)


class _Listening:
    """The fetcher's connection: the bytes of every answer are kept until its partitions are entered, which is next."""

    def __init__(self, client: Any, fetched: _Fetched) -> None:
        self._client = client
        self._fetched = fetched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: Any, request: Any) -> Any:
        response = await self._client.send(node, request)
        if response.API_KEY == FetchResponse_v0.API_KEY:
            self._fetched.raw = {
                ClientPartition(topic, number): rest[-1] or b""
                for topic, partitions in response.topics
                for number, _, _, *rest in partitions
            }
        return response


def _hand_out(result: Any, max_records: int | None = None) -> Sequence[Record]:
    """What the client's `FetchResult.getall` does: the next records of a partition, and its position behind them."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    records: _OurRecords = result._partition_records
    taken = records.take(max_records)
    result._update_position()
    if not records.left:
        result._partition_records = None
    return taken


class _Batch(NamedTuple):
    """A batch as the client checked it, and where in the raw bytes it lies. To the client it is its only record."""

    client: Any
    begin: int
    end: int

    @property
    def offset(self) -> int:
        return int(self.client.next_offset) - 1


class _Unread:
    """The client's batch, all of it but its records."""

    def __init__(self, batch: _Batch) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch.client, name)

    def __iter__(self) -> Iterator[_Batch]:
        return iter((self._batch,))

    def __next__(self) -> Any:
        return next(self._batch.client)  # a control batch's record


class _Located:
    """The client's batches of a fetch with their places."""

    def __init__(self, batches: Any, raw: bytes) -> None:
        self._batches = batches
        self._raw = raw
        self._at = 0
        self.has_next = batches.has_next

    def next_batch(self) -> _Unread:
        begin = self._at
        self._at += _LENGTH.size + _LENGTH.unpack_from(self._raw, begin)[1]
        return _Unread(_Batch(self._batches.next_batch(), begin, self._at))


class _OurRecords(PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of a partition. raw: its bytes, where its records may be columns."""

    raw: bytes | None
    _tp: ClientPartition
    _records: Any
    _records_iterator: Any
    _parsed: Sequence[Record] | None = None
    _at = 0
    _behind = 0

    @property
    def left(self) -> int:
        """Records that were not handed out."""
        return 0 if self._parsed is None else len(self._parsed) - self._at

    def take(self, most: int | None) -> Sequence[Record]:
        """The next records; `next_fetch_offset` moves behind them, and behind the last also behind what has none."""
        if self._parsed is None:
            self._parsed = self._parse()
        begin, self._at = self._at, min(len(self._parsed), self._at + (self.left if most is None else most))
        if self.left:
            self.next_fetch_offset = _offset_of(self._parsed, self._at)
        else:
            self.next_fetch_offset = self._behind
        if isinstance(self._parsed, RecordColumns):
            return self._parsed.cut(begin, self._at)
        return self._parsed[begin : self._at]

    def _parse(self) -> Sequence[Record]:
        """Everything that was fetched; what is not in order is raised, and fetched again from where this began."""
        self._parsed, self._behind = [], (low := self.next_fetch_offset)
        if self.raw is not None:
            self._records = _Located(self._records, self.raw)
        try:
            unpacked: list[Any] = list(self._records_iterator)
            behind = self.next_fetch_offset
        finally:
            self.next_fetch_offset = low
        parsed: Sequence[Record] = unpacked
        if self.raw is not None:
            columns = self._columns(self.raw, unpacked, low)
            one_by_one = (r for batch in unpacked for r in batch.client if r.offset >= low)
            parsed = [self._ours(r) for r in one_by_one] if columns is None else columns
        self._behind = behind
        self._records = self._records_iterator = None
        return parsed

    def _consumer_record(self, name: ClientPartition, found: Any) -> _Batch | Record:
        return found if isinstance(found, _Batch) else self._ours(found)

    def _ours(self, r: Any) -> Record:
        topic, partition = self._tp
        return make_record((topic, partition, r.offset, r.timestamp, r.key, r.value, r.headers))

    def _columns(self, raw: bytes, batches: Sequence[_Batch], low: int) -> RecordColumns | None:
        rows = [_row(raw, batch) for batch in batches]
        found = [row for row in rows if row is not None]
        count = sum(row[5] for row in found)
        if len(found) < len(rows) or count <= FEW_RECORDS:
            return None
        from streamer.log import kafka_kernel as kernel  # compiled code: loaded by whom it serves

        offsets, times_ms = np.empty((2, count), np.int64)
        starts, ends = np.empty((2, 2, count), np.int64)
        table = np.array(found, np.int64)
        data = np.frombuffer(raw, np.uint8)
        n = kernel.read(data, table, low, offsets, times_ms, starts, ends, np.empty(1, np.int64))
        if n < 0:
            return None
        topic, partition = self._tp
        return RecordColumns(topic, partition, offsets[:n], times_ms[:n], raw, starts[:, :n], ends[:, :n])


def _row(raw: bytes, batch: _Batch) -> tuple[int, ...] | None:
    """A batch as the kernel wants it; None for what it does not read: other formats, compressed batches."""
    if batch.end - batch.begin < _HEADER.size:
        return None
    base, _, _, magic, _, attributes, _, first_ms, latest_ms, _, _, _, count = _HEADER.unpack_from(raw, batch.begin)
    begin = batch.begin + _HEADER.size
    if magic != _MAGIC or attributes & _COMPRESSED or not 0 <= count * _FEWEST_BYTES <= batch.end - begin:
        return None
    return base, first_ms, latest_ms, begin, batch.end, count, attributes & _APPEND_TIME


def _offset_of(records: Sequence[Record], index: int) -> int:
    return int(records.offsets[index]) if isinstance(records, RecordColumns) else records[index].offset
