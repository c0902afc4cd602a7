"""Kafka's record format (message format v2) written and read by compiled code, the interpreter let go.

Source: Apache Kafka protocol, "Record Batch" and "Record". Import it lazily: it compiles at its first import on a
machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.speech.compiled import compiled, inlined, types

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

KEY, VALUE = 0, 1
"""Rows of `starts` and `ends` (streamer.columns)."""
AT, COUNT, FIRST_MS, LATEST_MS = range(4)
"""What is known of a batch being written: bytes, records, the first and the latest timestamp."""
RECORD_BYTES = 32
"""More than a record takes beside its key, its value and its headers."""
VARINT_BYTES = 10
BASE_OFFSET, BASE_MS, MAX_MS, BEGIN, END, RECORDS, APPEND_TIME = range(7)
"""Of a batch to be read: what its header says, and where its records lie."""

_u8 = types.Array(types.uint8, 1, "C", readonly=True)
_i64 = types.Array(types.int64, 1, "C", readonly=True)
_any = types.Array(types.int64, 2, "A", readonly=True)
_out = types.uint8[::1]
_line = types.int64[::1]
_table = types.int64[:, ::1]


@inlined
def _varint_bytes(value: int) -> int:
    rest = (value << 1) ^ (value >> 63)
    count = 1
    while rest > 127 or rest < 0:
        rest = (rest >> 7) & 0x01FFFFFFFFFFFFFF
        count += 1
    return count


@inlined
def _write_varint(out: Bytes, at: int, value: int) -> int:
    rest = (value << 1) ^ (value >> 63)
    while rest > 127 or rest < 0:
        out[at] = (rest & 127) | 128
        rest = (rest >> 7) & 0x01FFFFFFFFFFFFFF
        at += 1
    out[at] = rest
    return at + 1


@inlined
def _copy(out: Bytes, at: int, source: Bytes, begin: int, end: int) -> int:
    for i in range(begin, end):
        out[at + i - begin] = source[i]
    return at + end - begin


@inlined
def _write_part(out: Bytes, at: int, data: Bytes, start: int, end: int) -> int:
    if end < start:
        return _write_varint(out, at, -1)
    return _copy(out, _write_varint(out, at, end - start), data, start, end)


@compiled(
    types.int64(
        *(_out, _line, types.int64, types.int64),
        *(_u8, _any, _any, _i64, types.int64),
        *(_u8, _i64, _i64),
    )
)
def write(
    out: Bytes,
    batch: Numbers,
    limit: int,
    n: int,
    data: Bytes,
    starts: Numbers,
    ends: Numbers,
    timestamps_ms: Numbers,
    begin: int,
    constant: Bytes,
    bounds: Numbers,
    rows: Numbers,
) -> int:
    """Write records begin..n into a batch until it is full; the first record that was not written.

    out: the batch, at most `limit` bytes of it are used, but a first record always goes in. batch: (4,) what is known
    of it, kept up to date. data, starts, ends, timestamps_ms: the records (streamer.columns). constant: the headers'
    bytes around the values that differ, by bounds; rows: where those lie, row by row of starts and ends.
    """
    varying = len(rows)
    shared = bounds[varying + 1]
    for i in range(begin, n):
        delta_ms = timestamps_ms[i] - batch[FIRST_MS] if batch[COUNT] else 0
        size = 1 + _varint_bytes(delta_ms) + _varint_bytes(batch[COUNT]) + shared
        for row in range(2 + varying):
            part = row if row < 2 else rows[row - 2]
            length = ends[part, i] - starts[part, i]
            size += _varint_bytes(max(length, -1)) + max(length, 0)
        at = batch[AT]
        if batch[COUNT] and at + size + _varint_bytes(size) > limit:
            return i
        if not batch[COUNT]:
            batch[FIRST_MS] = batch[LATEST_MS] = timestamps_ms[i]
        at = _write_varint(out, at, size)
        out[at] = 0
        at = _write_varint(out, at + 1, delta_ms)
        at = _write_varint(out, at, batch[COUNT])
        at = _write_part(out, at, data, starts[KEY, i], ends[KEY, i])
        at = _write_part(out, at, data, starts[VALUE, i], ends[VALUE, i])
        for number in range(varying):
            at = _copy(out, at, constant, bounds[number], bounds[number + 1])
            at = _write_part(out, at, data, starts[rows[number], i], ends[rows[number], i])
        at = _copy(out, at, constant, bounds[varying], shared)
        batch[AT] = at
        batch[COUNT] += 1
        batch[LATEST_MS] = max(batch[LATEST_MS], timestamps_ms[i])
    return n


@inlined
def _read_varint(data: Bytes, place: Numbers, end: int) -> int:
    """The number at place[0], which moves behind it, beyond `end` where there is none."""
    at = place[0]
    raw, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < 70:
        byte = data[at]
        raw |= np.uint64(byte & 127) << shift
        at += 1
        if byte < 128:
            place[0] = at
            value: int = np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1))  # type: ignore[assignment]
            return value
        shift += np.uint64(7)
    place[0] = end + 1
    return 0


@compiled(types.int64(*(_u8, _table, types.int64), *(_line, _line, _table, _table, _line)))
def read(
    data: Bytes,
    batches: Numbers,
    low: int,
    offsets: Numbers,
    timestamps_ms: Numbers,
    starts: Numbers,
    ends: Numbers,
    place: Numbers,
) -> int:
    """Read the records of batches (b, 7) whose offsets are not below `low`; how many.

    -1: something is not in order; -2: a record has headers. place: (1,), for the reading.
    """
    count = 0
    for b in range(len(batches)):
        end = batches[b, END]
        at = batches[b, BEGIN]
        for _ in range(batches[b, RECORDS]):
            place[0] = at
            size = _read_varint(data, place, end)
            if size < 0 or size > end - place[0]:
                return -1
            behind = place[0] + size
            place[0] += 1  # attributes
            delta_ms = _read_varint(data, place, behind)
            offset = batches[b, BASE_OFFSET] + _read_varint(data, place, behind)
            for row in range(2):
                length = _read_varint(data, place, behind)
                if length < -1 or length > behind - place[0]:
                    return -1
                starts[row, count] = place[0]
                ends[row, count] = place[0] + length
                place[0] += max(length, 0)
            if _read_varint(data, place, behind) != 0:
                return -2
            if place[0] != behind:
                return -1
            at = behind
            if offset < low:
                continue
            offsets[count] = offset
            timestamps_ms[count] = batches[b, MAX_MS] if batches[b, APPEND_TIME] else batches[b, BASE_MS] + delta_ms
            count += 1
        if at != end:
            return -1
    return count
