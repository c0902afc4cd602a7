"""What a step gave, as a task wants it: one row a record. A run of records was one row of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.codecs.base import Samples
from streamer.records import Record
from streamer.tasks.base import TaskBatch
from streamer.worker.item import Item


class Rows(NamedTuple):
    """A task's batch, and for each of its rows the item and the record that it comes from."""

    batch: TaskBatch
    items: Sequence[Item]
    records: Sequence[Record]


def rows_of(
    items: Sequence[Item],
    chunks: Sequence[Samples],
    outputs: Mapping[str, NDArray[np.generic]],
    lengths: NDArray[np.int64],
) -> list[Rows]:
    """chunks: (T_i, C) as they were stepped; outputs: (n, F, ...) with `lengths` (n,) valid frames.

    A run's row is unfolded: its model gives one frame a sample, and every sample is a record.
    """
    runs = [i for i, item in enumerate(items) if item.later]
    if not runs:
        return [_as_they_are(items, chunks, outputs, lengths)]
    if len(runs) == len(items):
        return [_unfolded(items, chunks, outputs, lengths)]
    singles = [i for i, item in enumerate(items) if not item.later]
    return [
        kind([items[i] for i in of], [chunks[i] for i in of], {n: leaf[of] for n, leaf in outputs.items()}, lengths[of])
        for kind, of in ((_as_they_are, singles), (_unfolded, runs))
    ]


def _as_they_are(
    items: Sequence[Item],
    chunks: Sequence[Samples],
    outputs: Mapping[str, NDArray[np.generic]],
    lengths: NDArray[np.int64],
) -> Rows:
    records = [item.record for item in items]
    offsets = [record.offset for record in records]
    times_ms = [item.decoded.time_ms for item in items]
    return Rows(TaskBatch([item.stream for item in items], offsets, times_ms, chunks, outputs, lengths), items, records)


def _unfolded(
    items: Sequence[Item],
    chunks: Sequence[Samples],
    outputs: Mapping[str, NDArray[np.generic]],
    lengths: NDArray[np.int64],
) -> Rows:
    row = np.repeat(np.arange(len(items)), lengths)
    frame = np.arange(len(row)) - np.repeat(lengths.cumsum() - lengths, lengths)
    owners: list[Item] = []
    records: list[Record] = []
    times_ms: list[int] = []
    for item in items:
        owners += [item] * (1 + len(item.later))
        records.append(item.record)
        times_ms.append(item.decoded.time_ms)
        for record, decoded in item.later:
            records.append(record)
            times_ms.append(decoded.time_ms)
    samples = np.concatenate(chunks)
    batch = TaskBatch(
        [item.stream for item in owners],
        [record.offset for record in records],
        times_ms,
        list(samples[:, None]),
        {name: leaf[row, frame][:, None] for name, leaf in outputs.items()},
        np.ones(len(row), np.int64),
    )
    return Rows(batch, owners, records)
