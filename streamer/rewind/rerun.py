"""A stream stepped once more through a range of its partition: in no group, and nothing is committed.

It is the worker's own intake, batcher and stepper over the records of the log, so that the stream comes to the state,
and says the words, that the worker's rules give.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from models.bundle import Bundle
from streamer.codecs.base import Decoder
from streamer.log.base import Log
from streamer.options import PipelineOptions
from streamer.records import Record, RecordBatch, TopicPartition
from streamer.rewind.find import records_between
from streamer.tasks.base import Task
from streamer.worker.batcher import Batcher
from streamer.worker.header import Known
from streamer.worker.intake import Intake
from streamer.worker.item import Item
from streamer.worker.pending import Said, parted
from streamer.worker.results import Copy, StreamKey
from streamer.worker.snapshot import Mark
from streamer.worker.stepper import Stepper
from streamer.worker.version import Versions
from streamer.worker.worker import version_of


class Rerun:
    """Streams of one partition, one after the other. A context manager: it holds a thread."""

    def __init__(
        self,
        log: Log,
        partition: TopicPartition,
        options: PipelineOptions,
        bundle: Bundle,
        task: Task,
        decoder: Decoder,
        *,
        source: str,
        max_record_bytes: int,
    ) -> None:
        """source: the `ce_source` of what is said. Raises ValueError for a device or dtype that cannot be had."""
        options = unhurried(options)
        self._log = log
        self._partition = partition
        versions = Versions(version_of(options, source, max_record_bytes, bundle, task))
        self._stepper = Stepper(versions, options)
        run = versions.records_per_run
        self._intake = Intake(decoder, self._stepper.outbox.dead, options.streams, records_per_run=run)
        one_by_one = options.engine.deterministic or run > 1
        chunks = 1 if one_by_one else options.engine.chunks_per_call
        self._batcher: Batcher[StreamKey, Item] = Batcher(max(1, options.engine.max_batch), chunks)

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "rerun")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    async def lay(self, stream: str, saved: Record) -> None:
        """Let a stream go on from a snapshot. Raises StateMismatch."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._lay, stream, saved)

    def _lay(self, stream: str, saved: Record) -> None:
        key = StreamKey(self._partition.partition, stream)
        self._stepper.table.lay_down(key, saved, Known())
        self._stepper.table.wake(key)

    async def run(self, stream: str, begin: int, end: int) -> AsyncIterator[list[Said]]:
        """Step a stream through its records in [begin, end); what it says as it comes. Raises DeviceLost, LogError."""
        loop = asyncio.get_running_loop()
        async for batch in records_between(self._log, self._partition, begin, end):
            if said := await loop.run_in_executor(self._thread, self._step, batch, stream):
                yield said

    def _step(self, batch: RecordBatch, stream: str) -> list[Said]:
        items, refused = self._intake.take(batch, 0)
        # Whose a record is that cannot be decoded, its key alone may tell.
        said: list[Said] = [letter for letter in refused if letter.record.key == stream.encode()]
        for item in items:
            if item.key.id == stream:
                self._batcher.add(item.key, item)
        while call := self._batcher.next():
            result = self._stepper.run(call)
            said += result[self._partition.partition].outputs
            for item in result.begun:
                self._batcher.put_back(item.key, item)
        return said

    async def state(self, stream: str, position: int) -> Copy:
        """A stream as it is now; one that is not there has the mark of a stream that is over below `position`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._state, stream, position)

    def _state(self, stream: str, position: int) -> Copy:
        table, key = self._stepper.table, StreamKey(self._partition.partition, stream)
        if copies := table.copies([key]):
            return copies[0]
        before = table.marks.get(key)
        return table.leave_mark(key, Mark(position, before.sessions if before is not None else ()))


def unhurried(options: PipelineOptions) -> PipelineOptions:
    """Without what the clock decides: the records are old, and none is passed over for that."""
    streams = replace(options.streams, max_lag_s=None, at_max_lag="catch_up", end_early=False)
    return replace(options, streams=streams, on_state_mismatch="refuse")


def since(said: Sequence[Said], offset: int) -> list[Said]:
    """What was caused at an offset or later, decisions or not: what comes before is run for the state alone."""
    return parted(said, offset)[1]
