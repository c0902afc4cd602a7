"""What a step gave, as a task wants it: one row a record. A run of records was one row of the step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.codecs.base import Samples
from streamer.codecs.messages import PlainPredictions
from streamer.columns import Numbers
from streamer.records import Record
from streamer.tasks.base import PlainTask, TaskBatch
from streamer.worker.item import Item

Outputs = Mapping[str, NDArray[Any]]


class Rows:
    """Rows of a step that are alike: single records, or runs. To be looked at as columns, or record by record."""

    def __init__(self, items: Sequence[Item], chunks: Sequence[Samples], outputs: Outputs, lengths: Numbers) -> None:
        """chunks: (T_i, C) as they were stepped; outputs: (n, F, ...) with `lengths` (n,) valid frames."""
        self.items = items
        self._chunks = chunks
        self._outputs = outputs
        self._lengths = lengths
        self._are_runs = bool(items[0].later)

    def plain(self, task: PlainTask, passed: Collection[str]) -> PlainPredictions | None:
        """What the task says of them, as columns; None for what must be said one by one.

        passed: names of input headers that travel on.
        """
        whole = self._lengths.all() and all(item.count is None and item.of_one_key for item in self.items)
        if not whole or (passed and not all(item.bare for item in self.items)):
            return None
        outputs, lengths = self._unfolded() if self._are_runs else (self._outputs, self._lengths)
        records = self._lengths if self._are_runs else np.ones(len(self.items), np.int64)
        return PlainPredictions(
            self.items[0].record.topic,
            [item.stream.id for item in self.items],
            [item.stream.key or b"" for item in self.items],
            [item.record.key or b"" for item in self.items],
            np.repeat(np.arange(len(self.items)), records),
            np.repeat(np.array([item.key.partition for item in self.items], np.int64), records),
            _flat(item.offsets() for item in self.items),
            _flat(item.times_ms() for item in self.items),
            task.plain(outputs, lengths),
        )

    def one_by_one(self) -> tuple[TaskBatch, Sequence[Item], Sequence[Record]]:
        """A task's batch, and for each of its rows the item and the record that it comes from."""
        parts = [(item, record, decoded) for item in self.items for record, decoded in item.parts()]
        outputs, lengths = self._unfolded() if self._are_runs else (self._outputs, self._lengths)
        owners = [item for item, _, _ in parts]
        batch = TaskBatch(
            [item.stream for item in owners],
            [record.offset for _, record, _ in parts],
            [decoded.time_ms for _, _, decoded in parts],
            list(np.concatenate(self._chunks)[:, None]) if self._are_runs else self._chunks,
            outputs,
            lengths,
        )
        return batch, owners, [record for _, record, _ in parts]

    def _unfolded(self) -> tuple[Outputs, Numbers]:
        """Of runs, a row a record: their model gives one frame a sample, and every sample is a record."""
        lengths = self._lengths
        row = np.repeat(np.arange(len(lengths)), lengths)
        frame = np.arange(len(row)) - np.repeat(lengths.cumsum() - lengths, lengths)
        return {name: leaf[row, frame][:, None] for name, leaf in self._outputs.items()}, np.ones(len(row), np.int64)


def rows_of(items: Sequence[Item], chunks: Sequence[Samples], outputs: Outputs, lengths: Numbers) -> list[Rows]:
    """The rows of a step; where there are single records and runs, each kind for itself."""
    runs = [i for i, item in enumerate(items) if item.later]
    if not runs or len(runs) == len(items):
        return [Rows(items, chunks, outputs, lengths)]
    singles = [i for i, item in enumerate(items) if not item.later]
    return [
        Rows([items[i] for i in of], [chunks[i] for i in of], {n: leaf[of] for n, leaf in outputs.items()}, lengths[of])
        for of in (singles, runs)
    ]


def _flat(lists: Iterable[Sequence[int]]) -> Numbers:
    return np.fromiter(chain.from_iterable(lists), np.int64)
