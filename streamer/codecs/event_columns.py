"""A batch of sensor events as columns. What is plain is read by compiled code, what is not by `EventDecoder`.

Whichever read it, an event is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.codecs import event_kernel as kernel
from streamer.codecs import run_kernel
from streamer.codecs.base import Decoded, Samples
from streamer.columns import KEY, VALUE, Numbers, RecordColumns
from streamer.errors import Malformed
from streamer.records import Record

_NO_SEQ = -1


class Events(NamedTuple):
    """Events of one batch, sorted into runs.

    records: the batch. places: (n,) which of its records they are. names: their streams' ids. seqs: None for none.
    samples: (n, C) float32, NaN is missing. lacking: whether something is. bounds: where the runs begin, and the end.
    """

    records: RecordColumns
    places: Numbers
    names: Sequence[str]
    offsets: Sequence[int]
    times_ms: Sequence[int]
    seqs: Sequence[int | None]
    samples: Samples
    lacking: Sequence[bool]
    bounds: Sequence[int]

    def pick(self, which: Sequence[int]) -> list[tuple[Record, Decoded]]:
        """Some of the events with their records."""
        names, times_ms, samples, seqs, lacking = self.names, self.times_ms, self.samples, self.seqs, self.lacking
        decoded = [Decoded(names[i], times_ms[i], samples[i : i + 1], seq=seqs[i], lacking=lacking[i]) for i in which]
        return list(zip(self.records.pick(self.places[which]), decoded, strict=True))


class EventColumns:
    """Reads batches for one decoder."""

    def __init__(
        self,
        columns: Sequence[str],
        array: str | None,
        stream: str | None,
        seq: str | None,
        decode: Callable[[Sequence[Record]], list[Decoded | Malformed]],
    ) -> None:
        """decode: reads what is not plain."""
        fields = {name.encode(): kernel.COLUMN + i for i, name in enumerate(columns)} if array is None else {}
        for name, kind in ((array, kernel.ARRAY), (stream, kernel.STREAM), (seq, kernel.SEQ)):
            if name is not None:
                fields[name.encode()] = kind
        self._width = len(columns)
        self._named = stream is not None
        self._keys = np.frombuffer(b"".join(fields), np.uint8)
        self._bounds = np.cumsum([0, *map(len, fields)])
        self._kinds = np.array(list(fields.values()), np.int64)
        self._decode = decode

    def read(
        self, records: RecordColumns, records_per_run: int, soon_ms: int
    ) -> tuple[Events, Mapping[int, Malformed]]:
        """The events in runs, and by its place in the batch what is wrong with every other record."""
        n = len(records)
        samples = np.empty((n, self._width), np.float32)
        seqs, starts, ends, streams, firsts, runs = np.empty((6, n), np.int64)
        plain = np.empty(n, np.bool_)
        key_starts, key_ends = records.starts[KEY], records.ends[KEY]
        kernel.read(
            records.data,
            key_starts,
            key_ends,
            records.starts[VALUE],
            records.ends[VALUE],
            self._keys,
            self._bounds,
            self._kinds,
            self._named,
            samples,
            seqs,
            starts,
            ends,
            plain,
            np.empty(3, np.int64),
            np.empty(1),
        )
        table = np.full(1 << (2 * n).bit_length(), -1, np.int64)
        count = run_kernel.number_streams(records.data, starts, ends, plain, table, streams, firsts)
        names = [records.data[starts[i] : ends[i]].tobytes().decode() for i in firsts[:count].tolist()]
        times_ms, lacking, refused = records.timestamps_ms, np.zeros(n, np.bool_), {}
        if not plain.all():
            refused = self._read_others(records, np.flatnonzero(~plain), names, streams, samples, seqs, lacking)
        most = run_kernel.group(
            records.data,
            key_starts,
            key_ends,
            streams,
            seqs,
            times_ms,
            lacking,
            records_per_run,
            soon_ms,
            np.empty((2, len(names)), np.int64),
            runs,
        )
        order = np.argsort(runs, kind="stable")[len(refused) :]
        events = Events(
            records=records,
            places=order,
            names=[names[number] for number in streams[order].tolist()],
            offsets=records.offsets[order].tolist(),
            times_ms=times_ms[order].tolist(),
            seqs=[None if seq == _NO_SEQ else seq for seq in seqs[order].tolist()],
            samples=samples[order],
            lacking=lacking[order].tolist(),
            bounds=np.searchsorted(runs[order], np.arange(most + 1)).tolist(),
        )
        return events, refused

    def _read_others(
        self,
        records: RecordColumns,
        places: NDArray[np.intp],
        names: list[str],
        streams: Numbers,
        samples: Samples,
        seqs: Numbers,
        lacking: NDArray[np.bool_],
    ) -> dict[int, Malformed]:
        """What is not plain, into the columns; by place, what is no event."""
        numbers = {name: number for number, name in enumerate(names)}
        refused: dict[int, Malformed] = {}
        for place, decoded in zip(places.tolist(), self._decode(records.pick(places)), strict=True):
            if isinstance(decoded, Malformed):
                refused[place] = decoded
                continue
            number = numbers.setdefault(decoded.stream, len(names))
            if number == len(names):
                names.append(decoded.stream)
            streams[place], samples[place], lacking[place] = number, decoded.samples[0], decoded.lacking
            seqs[place] = _NO_SEQ if decoded.seq is None else decoded.seq
        return refused
