"""Records as columns: all their bytes in one buffer, so that compiled code makes and reads them without an object each.

Both kinds are sequences of the ordinary records, which are made when somebody asks for one: whoever knows nothing of
columns loses speed and nothing else. Knows no log, no codec, no model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from streamer.records import NewRecord, Record, make_new_record, make_record

Buffer = NDArray[np.uint8]
Numbers = NDArray[np.int64]
R = TypeVar("R", Record, NewRecord)
KEY, VALUE = 0, 1
"""The first two rows of `starts` and `ends`."""


class _Columns(Sequence[R], Generic[R]):
    """n records over one buffer.

    data: (N,) bytes. starts, ends: (C, n) places of parts in it, row 0 the keys, row 1 the values, others what the
    kind says; an end before its start is None. timestamps_ms: (n,).
    """

    __slots__ = ("data", "ends", "starts", "timestamps_ms")

    def __init__(self, data: Buffer, starts: Numbers, ends: Numbers, timestamps_ms: Numbers) -> None:
        self.data = data
        self.starts = starts
        self.ends = ends
        self.timestamps_ms = timestamps_ms

    def __len__(self) -> int:
        return len(self.timestamps_ms)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self._record(i) for i in range(*index.indices(len(self)))]
        return self._record(range(len(self))[index])

    def __iter__(self) -> Iterator[R]:
        return map(self._record, range(len(self)))

    def part(self, row: int, index: int) -> bytes | None:
        """One record's part."""
        start, end = self.starts[row, index], self.ends[row, index]
        return None if end < start else self.data[start:end].tobytes()

    @abstractmethod
    def _record(self, index: int) -> R:
        """The record at 0 <= index < n."""


class RecordColumns(_Columns[Record]):
    """Records of one partition that were read, none with headers. raw: what `data` shows; offsets: (n,), rising."""

    __slots__ = ("offsets", "partition", "raw", "topic")

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: Numbers,
        timestamps_ms: Numbers,
        raw: bytes,
        starts: Numbers,
        ends: Numbers,
    ) -> None:
        super().__init__(np.frombuffer(raw, np.uint8), starts, ends, timestamps_ms)
        self.raw = raw
        self.topic = topic
        self.partition = partition
        self.offsets = offsets

    @property
    def value_bytes(self) -> int:
        """What all values take together."""
        return int(np.maximum(self.ends[VALUE] - self.starts[VALUE], 0).sum())

    def cut(self, begin: int, end: int) -> RecordColumns:
        """Some that follow each other."""
        where = slice(begin, end)
        columns = self.starts[:, where], self.ends[:, where]
        return RecordColumns(
            self.topic, self.partition, self.offsets[where], self.timestamps_ms[where], self.raw, *columns
        )

    def pick(self, places: NDArray[Any]) -> list[Record]:
        """Some of the records, made at once."""
        raw, topic, partition = self.raw, self.topic, self.partition
        numbers = self.offsets[places].tolist(), self.timestamps_ms[places].tolist()
        spans = (*self.starts[:, places].tolist(), *self.ends[:, places].tolist())
        return [
            make_record(
                (
                    *(topic, partition, offset, timestamp_ms),
                    None if key_end < key else raw[key:key_end],
                    None if value_end < value else raw[value:value_end],
                    (),
                )
            )
            for offset, timestamp_ms, key, value, key_end, value_end in zip(*numbers, *spans, strict=True)
        ]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.pick(np.arange(len(self))))

    def _record(self, index: int) -> Record:
        return self.pick(np.array([index]))[0]


class NewColumns(_Columns[NewRecord]):
    """Records to append whose headers have the same names in the same order.

    headers: each name with the value that all records share, or with the row of `starts` and `ends` where it lies.
    """

    __slots__ = ("headers",)

    def __init__(
        self,
        data: Buffer,
        starts: Numbers,
        ends: Numbers,
        timestamps_ms: Numbers,
        headers: Sequence[tuple[str, bytes | int]],
    ) -> None:
        super().__init__(data, starts, ends, timestamps_ms)
        self.headers = headers

    def take(self, rows: NDArray[Any]) -> NewColumns:
        """Some of the records: indices, or a mask."""
        return NewColumns(self.data, self.starts[:, rows], self.ends[:, rows], self.timestamps_ms[rows], self.headers)

    def _record(self, index: int) -> NewRecord:
        headers = [
            (name, value if isinstance(value, bytes) else self.part(value, index) or b"")
            for name, value in self.headers
        ]
        return make_new_record(
            (self.part(KEY, index), self.part(VALUE, index), headers, int(self.timestamps_ms[index]))
        )


class NewParts(Sequence[NewRecord]):
    """Columns behind each other."""

    __slots__ = ("_begins", "parts")

    def __init__(self, parts: Sequence[NewColumns]) -> None:
        self.parts = parts
        self._begins = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._begins[-1]

    @overload
    def __getitem__(self, index: int) -> NewRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[NewRecord]: ...
    def __getitem__(self, index: int | slice) -> NewRecord | list[NewRecord]:
        if isinstance(index, slice):
            return list(self)[index]
        place = range(len(self))[index]
        number = int(np.searchsorted(self._begins, place, "right")) - 1
        return self.parts[number][place - self._begins[number]]

    def __iter__(self) -> Iterator[NewRecord]:
        return (record for part in self.parts for record in part)
