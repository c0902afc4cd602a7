"""Topics and records in a SQLite file: plain functions on a connection, each inside a transaction of its caller.

Knows no groups, threads or event loop. Retention and compaction are bounded work done by each append: at most
`_UPKEEP_RECORDS` old records go per batch, and a compact topic drops a superseded record when its successor comes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from streamer.errors import OffsetGone
from streamer.log.base import OffsetRange, TopicInfo, TopicSpec
from streamer.log.batching import Measured, check_measured, fair_shares, measure
from streamer.log.topics import check_matches, embedded, topic_missing
from streamer.records import Append, Headers, Record, RecordBatch, TopicPartition

_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_UPKEEP_RECORDS = 4096

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode
_Row = tuple[int | None, bytes | None, bytes | None, bytes | None]  # timestamp_ms, key, headers, value


class Prepared(NamedTuple):
    """A batch as rows, encoded before the lock is taken."""

    topic: str
    partition: int
    rows: Sequence[_Row]
    measured: Measured


class _Place(NamedTuple):
    """A partition as its table has it."""

    id: int
    begin: int
    end: int


def prepare(append: Append) -> Prepared:
    """Encode a batch. Equal header objects in a row are encoded once."""
    rows: list[_Row] = []
    last: Headers | None = None
    encoded: bytes | None = None
    for key, value, headers, timestamp_ms in append.records:
        if headers is not last:
            last, encoded = headers, _encode_headers(headers) if headers else None
        rows.append((timestamp_ms, key, encoded, value))
    return Prepared(append.topic, append.partition, rows, measure(append.records))


def topics(connection: sqlite3.Connection) -> dict[str, TopicInfo]:
    """All topics by name."""
    rows = connection.execute("SELECT name, partitions, compact, retention_ms, max_record_bytes FROM topics")
    return {row[0]: embedded(row[0], row[1], bool(row[2]), row[3], row[4]) for row in rows}


def create_topics(connection: sqlite3.Connection, specs: Sequence[TopicSpec]) -> bool:
    """Create what is missing; True when there was something. Raises TopicMismatch."""
    found = topics(connection)
    for spec in specs:
        check_matches(spec, found.get(spec.name))
    missing = [spec for spec in specs if spec.name not in found]
    for spec in missing:
        row = (spec.name, spec.partitions, spec.compact, spec.retention_ms, spec.max_record_bytes)
        connection.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", row)
        rows = [(spec.name, partition) for partition in range(spec.partitions)]
        connection.executemany("INSERT INTO partitions (topic, partition) VALUES (?, ?)", rows)
    return bool(missing)


def delete_topics(connection: sqlite3.Connection, names: Iterable[str]) -> bool:
    """Delete topics, their records and committed offsets; True when there was something."""
    deleted = False
    for name in names:
        for (place,) in connection.execute("SELECT id FROM partitions WHERE topic = ?", (name,)).fetchall():
            low, high = place << _OFFSET_BITS, place << _OFFSET_BITS | _OFFSET_MASK
            connection.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (low, high))
            connection.execute("DELETE FROM latest WHERE partition_id = ?", (place,))
            deleted = True
        connection.execute("DELETE FROM partitions WHERE topic = ?", (name,))
        connection.execute("DELETE FROM topics WHERE name = ?", (name,))
        connection.execute("DELETE FROM offsets WHERE topic = ?", (name,))
    return deleted


def append(connection: sqlite3.Connection, batch: Prepared, now_ms: int, tombstone_retention_ms: int) -> int:
    """Append one batch and return its first offset. Raises TopicMissing, RecordTooLarge, LogError."""
    info = topic_info(connection, batch.topic)
    check_measured(info, batch.measured)
    place = _place(connection, TopicPartition(batch.topic, batch.partition))
    first_id = place.id << _OFFSET_BITS | place.end
    rows: list[tuple[object, ...]] = [
        (row_id, now_ms if timestamp_ms is None else timestamp_ms, now_ms, key, headers, value)
        for row_id, (timestamp_ms, key, headers, value) in enumerate(batch.rows, first_id)
    ]
    if info.compact:
        rows = _supersede(connection, place, rows)
        _drop_tombstones(connection, place, now_ms - tombstone_retention_ms)
    connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.execute("UPDATE partitions SET next_offset = ? WHERE id = ?", (place.end + len(batch.rows), place.id))
    if info.retention_ms is not None:
        _expire(connection, place, now_ms - info.retention_ms)
    return place.end


def read(
    connection: sqlite3.Connection, positions: Mapping[TopicPartition, int], max_records: int
) -> list[RecordBatch]:
    """Fairly from all of `positions`, in that order. Raises OffsetGone, TopicMissing."""
    places = _places(connection, positions)
    shares = fair_shares([places[name].end - position for name, position in positions.items()], max_records)
    return [
        _read_one(connection, name, places[name], position, share)
        for (name, position), share in zip(positions.items(), shares, strict=True)
        if share
    ]


def offsets(connection: sqlite3.Connection, names: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
    """What is kept of each partition. Raises TopicMissing."""
    return {name: OffsetRange(*_place(connection, name)[1:]) for name in names}


def offset_at(connection: sqlite3.Connection, name: TopicPartition, timestamp_ms: int) -> int:
    """The first offset with this time or a later one, else the end. Raises TopicMissing."""
    place = _place(connection, name)
    low, high = place.id << _OFFSET_BITS | place.begin, place.id << _OFFSET_BITS | _OFFSET_MASK
    query = "SELECT id FROM records WHERE id BETWEEN ? AND ? AND timestamp_ms >= ? ORDER BY id LIMIT 1"
    row = connection.execute(query, (low, high, timestamp_ms)).fetchone()
    return place.end if row is None else int(row[0]) & _OFFSET_MASK


def topic_info(connection: sqlite3.Connection, name: str) -> TopicInfo:
    """Raises TopicMissing."""
    query = "SELECT name, partitions, compact, retention_ms, max_record_bytes FROM topics WHERE name = ?"
    row = connection.execute(query, (name,)).fetchone()
    if row is None:
        raise topic_missing(name, "this SQLite log")
    return embedded(row[0], row[1], bool(row[2]), row[3], row[4])


def _place(connection: sqlite3.Connection, name: TopicPartition) -> _Place:
    query = "SELECT id, begin_offset, next_offset FROM partitions WHERE topic = ? AND partition = ?"
    row = connection.execute(query, name).fetchone()
    if row is None:
        raise topic_missing(name, "this SQLite log")
    return _Place(*row)


def _places(connection: sqlite3.Connection, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, _Place]:
    places = {name: _place(connection, name) for name in positions}
    for name, position in positions.items():
        if not places[name].begin <= position <= places[name].end:
            raise OffsetGone(
                f"{name} keeps offsets {places[name].begin} to {places[name].end}; {position} was asked for: "
                "start from a kept offset, or keep records longer (retention_ms)"
            )
    return places


def _read_one(
    connection: sqlite3.Connection, name: TopicPartition, place: _Place, position: int, limit: int
) -> RecordBatch:
    base = place.id << _OFFSET_BITS
    query = "SELECT id, timestamp_ms, key, value, headers FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
    topic, partition = name
    records = [
        Record(
            topic, partition, row_id & _OFFSET_MASK, time_ms, key, value, _decode_headers(headers) if headers else ()
        )
        for row_id, time_ms, key, value, headers in connection.execute(
            query, (base | position, base | _OFFSET_MASK, limit)
        )
    ]
    return RecordBatch(name, records, records[-1].offset + 1 if len(records) == limit else place.end)


def _supersede(
    connection: sqlite3.Connection, place: _Place, rows: Sequence[tuple[object, ...]]
) -> list[tuple[object, ...]]:
    """Drop what these rows replace, note the new places, and return the last row of each key, in order."""
    latest = {row[3]: index for index, row in enumerate(rows)}
    keys = [(place.id, key) for key in latest]
    connection.executemany(
        "DELETE FROM records WHERE id = (SELECT record_id FROM latest WHERE partition_id = ? AND key = ?)", keys
    )
    connection.executemany(
        "INSERT OR REPLACE INTO latest VALUES (?, ?, ?)",
        [(place.id, key, rows[index][0]) for key, index in latest.items()],
    )
    return [rows[index] for index in sorted(latest.values())]


def _drop_tombstones(connection: sqlite3.Connection, place: _Place, oldest_ms: int) -> None:
    """Old tombstones go for good; slow readers have had their time to learn of them."""
    low, high = place.id << _OFFSET_BITS, place.id << _OFFSET_BITS | _OFFSET_MASK
    rows = connection.execute(
        "SELECT id, key FROM records INDEXED BY tombstones "
        "WHERE value IS NULL AND id BETWEEN ? AND ? AND appended_ms < ? LIMIT ?",
        (low, high, oldest_ms, _UPKEEP_RECORDS),
    ).fetchall()
    connection.executemany("DELETE FROM records WHERE id = ?", [(row[0],) for row in rows])
    connection.executemany(
        "DELETE FROM latest WHERE partition_id = ? AND key = ? AND record_id = ?",
        [(place.id, key, row_id) for row_id, key in rows],
    )


def _expire(connection: sqlite3.Connection, place: _Place, oldest_ms: int) -> None:
    """Drop records appended before `oldest_ms` from the low end, a bounded number at a time."""
    low, high = place.id << _OFFSET_BITS | place.begin, place.id << _OFFSET_BITS | _OFFSET_MASK
    first = connection.execute(
        "SELECT appended_ms FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1", (low, high)
    ).fetchone()
    if first is None or first[0] >= oldest_ms:
        return
    (last_id,) = connection.execute(
        "SELECT max(id) FROM (SELECT id, appended_ms FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?) "
        "WHERE appended_ms < ?",
        (low, high, _UPKEEP_RECORDS, oldest_ms),
    ).fetchone()
    connection.execute(
        "DELETE FROM latest WHERE partition_id = ? AND key IN (SELECT key FROM records WHERE id BETWEEN ? AND ?)",
        (place.id, low, last_id),
    )
    connection.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (low, last_id))
    connection.execute("UPDATE partitions SET begin_offset = ? WHERE id = ?", ((last_id & _OFFSET_MASK) + 1, place.id))
