"""Record batches for aiokafka 0.14, built from columns at once instead of record by record.

To the client such a batch is one of its own builders: producer, epoch and sequence are set and the bytes asked for
when it is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from streamer.columns import Buffer, NewColumns, Numbers
from streamer.log import kafka_kernel as kernel

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and latest timestamp, producer
id and epoch, base sequence, records (Apache Kafka protocol, "Record Batch")."""
_COUNTED_FROM = struct.calcsize(">qi")
_CRC_AT = struct.calcsize(">qiib")
_CRC_FROM = struct.calcsize(">qiibI")
_MAGIC = 2
_TRANSACTIONAL = 0x10


class ColumnBatch(BatchBuilder):  # type: ignore[misc]
    """A full record batch without compression. To be sent once."""

    def __init__(self, records: Buffer, batch: Numbers, *, transactional: bool) -> None:
        """records: with room for the batch's header before them; batch: what the kernel knows of them."""
        self._records = records
        self._count = int(batch[kernel.COUNT])
        self._times_ms = int(batch[kernel.FIRST_MS]), int(batch[kernel.LATEST_MS])
        self._transactional = transactional
        self._producer = -1, -1, 0
        self._buffer: bytearray | None = None

    def close(self) -> None:
        """It is."""

    def closed(self) -> bool:
        return True

    def size(self) -> int:
        """Bytes, the batch's header included."""
        return len(self._records)

    def record_count(self) -> int:
        return self._count

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence

    def _build(self) -> bytearray:
        if self._buffer is None:
            built = bytearray(self._records)
            length, attributes = len(built) - _COUNTED_FROM, _TRANSACTIONAL if self._transactional else 0
            counts = attributes, self._count - 1, *self._times_ms, *self._producer, self._count
            _HEADER.pack_into(built, 0, 0, length, -1, _MAGIC, 0, *counts)
            struct.pack_into(">I", built, _CRC_AT, calc_crc32c(memoryview(built)[_CRC_FROM:]))
            self._buffer = built
        return self._buffer


def build(parts: Sequence[NewColumns], limit_bytes: int, *, transactional: bool) -> list[ColumnBatch]:
    """As few batches as hold all records in order, none above `limit_bytes` but for a record that is larger alone."""
    batches: list[ColumnBatch] = []
    out, known = np.empty(0, np.uint8), np.zeros(4, np.int64)
    for number, part in enumerate(parts):
        constant, bounds, rows = _headers(part)
        begin, n = 0, len(part)
        while begin < n:
            if not known[kernel.COUNT]:
                known[kernel.AT] = _HEADER.size
                room = sum(_most_bytes(p, begin if p is part else 0) for p in parts[number:])
                out = np.empty(_HEADER.size + min(room, max(limit_bytes, _largest_bytes(part, begin))), np.uint8)
            begin = kernel.write(
                out,
                known,
                limit_bytes,
                n,
                part.data,
                part.starts,
                part.ends,
                part.timestamps_ms,
                begin,
                constant,
                bounds,
                rows,
            )
            if begin < n:
                batches.append(ColumnBatch(out[: known[kernel.AT]], known, transactional=transactional))
                known[:] = 0
    if known[kernel.COUNT]:
        batches.append(ColumnBatch(out[: known[kernel.AT]], known, transactional=transactional))
    return batches


def _headers(part: NewColumns) -> tuple[Buffer, Numbers, Numbers]:
    """The headers' bytes around the values that differ, their bounds, and the rows where those values lie."""
    pieces, piece, rows = [], bytearray(_varint(len(part.headers))), []
    for name, value in part.headers:
        piece += _counted(name.encode())
        if isinstance(value, bytes):
            piece += _counted(value)
        else:
            rows.append(value)
            pieces.append(bytes(piece))
            piece = bytearray()
    pieces.append(bytes(piece))
    bounds = np.cumsum([0, *map(len, pieces)])
    return np.frombuffer(b"".join(pieces), np.uint8), bounds, np.array(rows, np.int64)


def _counted(value: bytes) -> bytes:
    return _varint(len(value)) + value


def _varint(count: int) -> bytes:
    """A number that is not negative, zigzag and in groups of seven bits."""
    rest, groups = count << 1, bytearray()
    while rest > 127:
        groups.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*groups, rest])


def _most_bytes(part: NewColumns, begin: int) -> int:
    """What records take at most."""
    lengths = np.maximum(part.ends[:, begin:] - part.starts[:, begin:], 0)
    return int(lengths.sum()) + (len(part) - begin) * _around(part)


def _largest_bytes(part: NewColumns, begin: int) -> int:
    """What the record that comes next takes at most."""
    lengths = np.maximum(part.ends[:, begin] - part.starts[:, begin], 0)
    return int(lengths.sum()) + _around(part)


def _around(part: NewColumns) -> int:
    """What a record takes at most beside what differs."""
    shared = sum(
        len(name.encode()) + 2 * kernel.VARINT_BYTES + (len(value) if isinstance(value, bytes) else 0)
        for name, value in part.headers
    )
    return kernel.RECORD_BYTES + 2 * kernel.VARINT_BYTES + shared
