"""Stand-ins for streams that change over to another version: its network has stepped through their latest input.

The input is read again from the log and stepped by the current version in a table of its own; whatever that says is
dropped. A network needs a while to find its way into a signal, and this is how it gets there without anybody waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from streamer.errors import StateMismatch
from streamer.log.base import Log
from streamer.options import PipelineOptions
from streamer.records import RecordBatch, TopicPartition
from streamer.worker.batcher import Batcher
from streamer.worker.intake import Intake
from streamer.worker.item import Item
from streamer.worker.patience import patiently
from streamer.worker.results import StreamKey
from streamer.worker.stepper import Stepper
from streamer.worker.stream import Stream
from streamer.worker.version import Version, Versions, handed_over

T = TypeVar("T")
NO_LIMIT = 1 << 62
AT_ONCE = 64
READ_TIMEOUT_S = 1.0


class Warming:
    """Warms up stand-ins in the current version; reads on the event loop, steps on the engine's thread.

    batcher: where the streams' records wait meanwhile; work: set when they may go on.
    """

    def __init__(
        self,
        log: Log,
        stepper: Stepper,
        intake: Intake,
        options: PipelineOptions,
        batcher: Batcher[StreamKey, Item],
        work: asyncio.Event,
        engine_thread: ThreadPoolExecutor,
        intake_thread: ThreadPoolExecutor,
    ) -> None:
        self._log = log
        self._table = stepper.table
        self._versions = stepper.versions
        self._intake = intake
        self._batcher = batcher
        self._work = work
        self._lock = asyncio.Lock()
        self._warm_up_ms = int(options.warm_up_s * 1000)
        streams = replace(options.streams, max_streams=NO_LIMIT, max_host_bytes=NO_LIMIT)
        self._options = replace(options, streams=streams)
        self._engine_thread = engine_thread
        self._intake_thread = intake_thread

    async def warm_up(self, partition: TopicPartition) -> None:
        """Make stand-ins for all streams of a partition that wait for one, some at a time. Raises LogUnavailable."""
        async with self._lock:
            while keys := await self._on_engine_thread(partial(self._table.cold, partition.partition, AT_ONCE)):
                self._batcher.hold(keys)
                try:
                    hosts = await self._on_engine_thread(partial(self._table.hosts, keys))
                    await patiently("warm up", partial(self._warm, partition, hosts), self._options.commit.wait_s)
                finally:
                    self._batcher.release(keys)
                    self._work.set()

    async def _warm(self, partition: TopicPartition, streams: Sequence[Stream]) -> None:
        """Make a stand-in for each of these streams, which nobody steps meanwhile. Raises LogUnavailable.

        A stream has none afterwards if its input is gone, if it ended within it, or if the current version's task
        cannot take over from its task.
        """
        version = self._versions.current
        stepper = Stepper(Versions(version), self._options)
        try:
            waiting = self._line_up(stepper, version, streams, await self._heard(partition, streams))
            while call := waiting.next():
                result = await self._on_engine_thread(partial(stepper.run, call))
                for item in result.begun:
                    waiting.put_back(item.key, item)
            await self._on_engine_thread(partial(self._keep, stepper, version, streams))
        finally:  # of what is not kept nothing stays behind, also when the partition went away meanwhile
            self._engine_thread.submit(stepper.table.drop_all)

    async def _on_engine_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, work)

    def _line_up(
        self, stepper: Stepper, version: Version, streams: Sequence[Stream], items: Mapping[str, list[Item]]
    ) -> Batcher[StreamKey, Item]:
        """A stand-in for every stream that was heard, and what it is to step."""
        waiting: Batcher[StreamKey, Item] = Batcher(version.engine.max_batch, self._options.engine.chunks_per_call)
        for stream in streams:
            if mine := items.get(stream.id):
                try:
                    stepper.table.streams[mine[0].key] = stand_in(stream, version, mine[0])
                except StateMismatch:
                    continue
                for item in mine:
                    waiting.add(item.key, item)
        return waiting

    async def _heard(self, partition: TopicPartition, streams: Sequence[Stream]) -> dict[str, list[Item]]:
        """The latest records that are contained in these streams' states, by stream."""
        begin = (await self._log.offsets([partition]))[partition].begin
        end = max(stream.position for stream in streams)
        start = await self._start(partition, max(begin, min(stream.last_offset for stream in streams)), end)
        wanted = {stream.id: stream for stream in streams}
        found: dict[str, list[Item]] = {}
        async with self._log.reader({partition: start}) as reader:
            while reader.position(partition) < end:
                for batch in await reader.read(timeout_s=READ_TIMEOUT_S):
                    for item in await self._decoded(batch):
                        stream = wanted.get(item.key.id)
                        if stream is not None and self._counts(stream, item):
                            found.setdefault(stream.id, []).append(item)
        return found

    async def _start(self, partition: TopicPartition, last: int, end: int) -> int:
        """Where the input begins that is `warm_up_s` older than the record at `last`; record times, not events' own."""
        async with self._log.reader({partition: last}) as reader:
            while reader.position(partition) < end:
                for batch in await reader.read(max_records=1, timeout_s=READ_TIMEOUT_S):
                    if batch.records:
                        time_ms = batch.records[0].timestamp_ms - self._warm_up_ms
                        return min(last, await self._log.offset_at(partition, time_ms))
        return last

    async def _decoded(self, batch: RecordBatch) -> list[Item]:
        taken = await asyncio.get_running_loop().run_in_executor(self._intake_thread, self._intake.take, batch, 0)
        return [single for item in taken.items for single in item.singles()]

    def _counts(self, stream: Stream, item: Item) -> bool:
        """Whether a record is contained in a stream's state, and late enough."""
        contained = stream.first_offset <= item.record.offset < stream.position
        return contained and item.decoded.time_ms >= stream.last_ms - self._warm_up_ms

    def _keep(self, stepper: Stepper, version: Version, streams: Sequence[Stream]) -> None:
        """The stand-ins wait for their streams' next records; a stream without one changes over to a fresh state."""
        if version is not self._versions.current:
            return
        for stream in streams:
            key = StreamKey(stream.partition, stream.id)
            warmed = stepper.table.streams.pop(key, None)
            if warmed is not None:
                warmed.clock_samples = version.samples(stream.clock_samples, stream.version.rate_hz)
                warmed.last_offset = stream.last_offset
                warmed.task = version.task.restart(warmed)
            self._versions.warmed[key] = warmed


def stand_in(stream: Stream, version: Version, first: Item) -> Stream:
    """A stream of `version` as `stream` stood before its record `first`. Raises StateMismatch."""
    old, decoded = stream.version, first.decoded
    heard_samples = max(0, stream.last_ms - decoded.time_ms) * version.rate_hz // 1000
    fresh = replace(
        stream,
        version=version,
        slot=None,
        spilled=None,
        resampler=None,
        held=None,
        position=first.record.offset,
        last_ms=decoded.time_ms,
        session=decoded.session,
        replaced=(),
        expected_seq=None,
        expected_sample=None,
        holes=(),
        rate_hz=decoded.rate_hz,
        clock_samples=max(0, version.samples(stream.clock_samples, old.rate_hz) - heard_samples),
    )
    fresh.task = handed_over(version, stream, old.task.dump(old.task.restart(stream)))
    return fresh
