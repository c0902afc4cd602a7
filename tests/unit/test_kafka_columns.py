"""Kafka's record batches written and read as columns: the client's own reader and writer are the reference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from aiokafka import TopicPartition as ClientPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.control_record import ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.columns import NewColumns, NewParts, RecordColumns
from streamer.log import kafka_kernel
from streamer.log.kafka_batches import build
from streamer.log.kafka_records import FEW_RECORDS, _Fetched
from streamer.records import NewRecord, Record

PARTITION: Any = ClientPartition("topic", 3)
PART = st.none() | st.binary(max_size=9) | st.binary(min_size=120, max_size=140)
TIME_MS = st.integers(0, 2**50)
CONTROL = 0x20


def columns(rows: Sequence[tuple[list[bytes | None], int]], headers: Sequence[tuple[str, bytes | int]]) -> NewColumns:
    """New records of these parts (key, value, headers that differ) and times."""
    parts = [part for row, _ in rows for part in row]
    sizes = np.array([len(part or b"") for part in parts], np.int64)
    starts = (np.cumsum(sizes) - sizes).reshape(len(rows), -1).T
    absent = np.array([part is None for part in parts]).reshape(len(rows), -1).T
    ends = starts + sizes.reshape(len(rows), -1).T - absent
    data = np.frombuffer(b"".join(part or b"" for part in parts), np.uint8)
    return NewColumns(data, starts, ends, np.array([time for _, time in rows], np.int64), headers)


@st.composite
def new_columns(draw: st.DrawFn) -> NewColumns:
    differing = draw(st.integers(0, 3))
    fixed = st.tuples(st.text(max_size=4), st.binary(max_size=200))
    headers: list[tuple[str, bytes | int]] = [*draw(st.lists(fixed, max_size=3))]
    headers += [(f"varies-{i}", 2 + i) for i in range(differing)]
    row = st.tuples(PART, PART, *[st.binary(max_size=5)] * differing).map(list)
    return columns(draw(st.lists(st.tuples(row, TIME_MS), min_size=1, max_size=20)), draw(st.permutations(headers)))


def read(batches: Sequence[Any]) -> list[NewRecord]:
    """What the client reads out of batches, their hashes checked."""
    found = []
    for batch in batches:
        memory = MemoryRecords(bytes(batch._build()))
        while (part := memory.next_batch()) is not None:
            assert part.validate_crc()
            found += [NewRecord(r.key, r.value, r.headers, r.timestamp) for r in part]
    return found


def by_the_client(records: Sequence[NewRecord], *, transactional: bool = False, codec: int = 0) -> BatchBuilder:
    """All records in one batch that the client builds."""
    builder = BatchBuilder(1 << 20, codec, is_transactional=int(transactional))
    for key, value, headers, timestamp_ms in records:
        assert builder.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers)) is not None
    return builder


@settings(max_examples=200, deadline=None)
@given(st.lists(new_columns(), min_size=1, max_size=3), st.integers(100, 2000), st.booleans())
def test_batches_hold_all_records_in_order_and_keep_to_their_limit(
    parts: list[NewColumns], limit_bytes: int, transactional: bool
) -> None:
    records = list(NewParts(parts))
    batches = build(parts, limit_bytes, transactional=transactional)
    sizes = [(batch.size(), batch.record_count()) for batch in batches]
    assert all(size <= limit_bytes or count == 1 for size, count in sizes)
    assert sum(count for _, count in sizes) == len(records)
    assert read(batches) == records


@settings(max_examples=100, deadline=None)
@given(st.lists(new_columns(), min_size=1, max_size=3), st.booleans())
def test_a_batch_is_the_clients_own_byte_for_byte(parts: list[NewColumns], transactional: bool) -> None:
    [mine] = build(parts, 1 << 20, transactional=transactional)
    theirs = by_the_client(NewParts(parts), transactional=transactional)
    assert (mine.size(), mine.record_count()) == (theirs.size(), theirs.record_count())
    for batch in (mine, theirs):
        batch._set_producer_state(7, 3, 11)
    assert bytes(mine._build()) == bytes(theirs._build())


# ------------------------------------------------------------------ reading

BARE = st.tuples(PART, PART, st.just([]), TIME_MS).map(lambda fields: NewRecord(*fields))
HEADED = st.tuples(PART, PART, st.just([("h", b"1")]), TIME_MS).map(lambda fields: NewRecord(*fields))
PRODUCERS = st.sampled_from([-1, 1, 2])


@st.composite
def fetches(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """A fetch's bytes, its aborted transactions, and the offset that was asked for, which its first batch has."""
    raw, offset, aborted, low = b"", 0, [], 0
    usual = draw(st.sampled_from([BARE, BARE, HEADED]))
    for _ in range(draw(st.integers(1, 4))):
        producer = draw(PRODUCERS)
        records = draw(st.lists(usual, min_size=1, max_size=2 * FEW_RECORDS))
        codec = draw(st.sampled_from([0, 0, 0, 1]))
        batch = by_the_client(records, transactional=producer > 0, codec=codec)
        batch._set_producer_state(producer, 0, 0)
        raw += _placed(bytes(batch._build()), offset, 0)
        low = low if offset else draw(st.integers(0, len(records) - 1))
        begun, offset = offset, offset + len(records) + draw(st.integers(0, 2))  # holes, as compaction leaves them
        if producer > 0 and draw(st.booleans()):
            aborts = draw(st.booleans())
            if aborts:
                aborted.append((producer, begun))
            raw += _placed(_marker(producer, aborts), offset, CONTROL)
            offset += 1
    return raw, aborted, low


def _marker(producer: int, aborts: bool) -> bytes:
    """The batch that ends a transaction."""
    key = struct.pack(">hh", 0, 0 if aborts else 1)
    assert ControlRecord.parse(key).type_ == (0 if aborts else 1)
    batch = by_the_client([NewRecord(key, b"\0\0\0\0\0\0", (), 0)], transactional=True)
    batch._set_producer_state(producer, 0, 0)
    return bytes(batch._build())


def _placed(batch: bytes, offset: int, attributes: int) -> bytes:
    """As the broker stores it: at its offset."""
    stored = bytearray(batch)
    struct.pack_into(">q", stored, 0, offset)
    struct.pack_into(">h", stored, 21, struct.unpack_from(">h", stored, 21)[0] | attributes)
    struct.pack_into(">I", stored, 17, calc_crc32c(bytes(stored[21:])))
    return bytes(stored)


class _Assignment:
    """The client's assignment of one partition, as far as a fetch's result asks it."""

    active, paused = True, False

    def __init__(self, position: int) -> None:
        self.position = position

    def state_value(self, name: ClientPartition) -> _Assignment:
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def _result(raw: bytes, aborted: list[tuple[int, int]], low: int) -> tuple[Any, _Assignment]:
    at = _Assignment(low)
    memory = MemoryRecords(raw)
    found = PartitionRecords(PARTITION, memory, list(aborted), low, None, None, True, READ_COMMITTED)
    return FetchResult(PARTITION, assignment=at, partition_records=found, backoff=0), at


@settings(max_examples=300, deadline=None)
@given(fetches(), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_a_fetch_hands_out_what_the_client_would_and_moves_as_far(
    fetch: tuple[bytes, list[tuple[int, int]], int], sizes: list[int]
) -> None:
    raw, aborted, low = fetch
    theirs, their_place = _result(raw, aborted, low)
    expected = [Record("topic", 3, r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs.getall()]
    result, place = _result(raw, aborted, low)
    fetched = _Fetched({})
    fetched.raw[PARTITION] = raw
    fetched[PARTITION] = result
    found: list[Record] = []
    while result.has_more():
        size = sizes[len(found) % len(sizes)]
        part = result.getall(size)
        assert len(part) <= size
        found += part
        assert not part or place.position > part[-1].offset
    assert [r._replace(headers=tuple(r.headers)) for r in found] == expected
    assert place.position == their_place.position


def test_a_fetch_of_records_without_headers_is_columns() -> None:
    records = [NewRecord(b"k", b"v", (), i) for i in range(FEW_RECORDS + 1)]
    raw = _placed(bytes(by_the_client(records)._build()), 5, 0)
    result, _ = _result(raw, [], 7)
    fetched = _Fetched({})
    fetched.raw[PARTITION] = raw
    fetched[PARTITION] = result
    part = result.getall(4)
    assert isinstance(part, RecordColumns)
    assert [r.offset for r in part] == [7, 8, 9, 10]


@settings(max_examples=300, deadline=None)
@given(st.lists(BARE, min_size=1, max_size=4), st.integers(0, 10**6), st.binary(min_size=1, max_size=10))
def test_damaged_records_are_told_and_nothing_outside_of_them_is_read(
    records: list[NewRecord], at: int, damage: bytes
) -> None:
    raw = bytearray(by_the_client(records)._build())
    place = 61 + at % (len(raw) - 61)
    raw[place : place + len(damage)] = damage
    data, n = np.frombuffer(bytes(raw), np.uint8), len(records)
    offsets, times_ms, (starts, ends) = *np.zeros((2, n), np.int64), np.zeros((2, 2, n), np.int64)
    table = np.array([[0, 0, 0, 61, len(raw), n, 0]], np.int64)
    count = kafka_kernel.read(data, table, 0, offsets, times_ms, starts, ends, np.empty(1, np.int64))
    assert count <= n
    if count > 0:
        lengths = ends[:, :count] - starts[:, :count]
        assert lengths.min() >= -1
        assert starts[:, :count].min() >= 61
        assert ends[:, :count].max() <= len(raw)
