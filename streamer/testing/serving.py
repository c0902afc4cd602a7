"""A worker over a log for tests: feed records, serve until all of them are answered, read what was said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from models.bundle import wrap
from models.contract import StreamModel
from streamer.codecs.base import Decoder
from streamer.codecs.events import EventDecoder
from streamer.codecs.messages import Envelope, decode
from streamer.log.base import Log
from streamer.options import CommitOptions, InputOptions, PipelineOptions
from streamer.records import NewRecord, Record, TopicPartition
from streamer.tasks.base import Task
from streamer.tasks.prediction import PredictionTask
from streamer.worker import topics
from streamer.worker.worker import Worker

APPLICATION, PIPELINE, INPUT = "test", "sums", "input"
LOOK_S = 0.02
"""How long a wait for an append lasts before the worker is looked at again."""
QUICK = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=1)


def event(stream: str, value: float, *, time_ms: int = 0, **headers: str) -> NewRecord:
    """A sensor event of one column; `x_seq="3"` becomes the header `x-seq: 3`."""
    named = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
    return NewRecord(stream.encode(), b'{"value": %s}' % str(value).encode(), named, time_ms)


def options_of(partitions: int = 1, **parts: object) -> PipelineOptions:
    """A pipeline of one-column events that commits every millisecond; `parts` replace whole groups of options."""
    base = PipelineOptions(input=InputOptions(topic=INPUT, partitions=partitions), model="none", commit=QUICK)
    return replace(base, **parts)  # type: ignore[arg-type]


class Serving:
    """One pipeline over `log`. make_model: each worker gets a model of its own, as each process would."""

    def __init__(
        self,
        log: Log,
        make_model: Callable[[], StreamModel],
        options: PipelineOptions | None = None,
        *,
        task: Task | None = None,
        decoder: Decoder | None = None,
        version: str = "1",
    ) -> None:
        self.log = log
        self.options = options or options_of()
        self.make_model = make_model
        self._task = task
        self._decoder = decoder
        self._version = version
        self.changelog = topics.changelog_of(topics.group_of(APPLICATION, PIPELINE), self.options.input.topic)

    async def create_topics(self) -> None:
        """Everything the pipeline needs."""
        group = topics.group_of(APPLICATION, PIPELINE)
        await self.log.create_topics(topics.needed(self.options, group, self.options.input.partitions))

    async def feed(self, records: Sequence[NewRecord], partition: int = 0) -> None:
        """Append input."""
        await self.log.append(self.options.input.topic, partition, records)

    def worker(self, log: Log | None = None) -> Worker:
        """A new worker, not yet running."""
        model = self.make_model()
        return Worker(
            log or self.log,
            PIPELINE,
            self.options,
            wrap(model, name="model", version=self._version),
            decoder=self._decoder or EventDecoder(self.options.input.columns, missing=self.options.input.missing),
            task=self._task or PredictionTask(model.signature.outputs),
            application=APPLICATION,
        )

    @asynccontextmanager
    async def running(self, log: Log | None = None) -> AsyncIterator[Worker]:
        """A running worker; leaving drains and stops it. Raises what ended it."""
        worker = self.worker(log)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
            worker.stop()
            await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, worker: Worker, done: Callable[[], bool]) -> None:
        """Wait until `done`, looking again whenever something was published."""
        names = [TopicPartition(name, n) for name in self._topics() for n in range(self.options.input.partitions)]
        ends = await self.log.offsets(names)
        async with self.log.reader({name: ends[name].end for name in names}) as reader:
            while not done():
                await reader.read(timeout_s=LOOK_S)

    async def until_published(self, topic: str, partition: int = 0) -> None:
        """Wait until a topic's partition holds a record."""
        name = TopicPartition(topic, partition)
        async with self.log.reader({name: (await self.log.offsets([name]))[name].begin}) as reader:
            while not await reader.read(timeout_s=1.0):
                pass

    async def serve(self, log: Log | None = None, *, until: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Answer all input there is, go on `until` something, then be killed: nothing is drained or saved.

        Raises what ended the worker.
        """
        worker = self.worker(log)

        async def done() -> bool:
            return await worker.drained() and (until is None or await until())

        task = asyncio.create_task(worker.run())
        try:
            while not task.done() and not await done():
                await asyncio.wait([task], timeout=LOOK_S / 4)
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # it may die of its own on the way out

    async def said(self) -> list[Envelope]:
        """All messages of all output topics, topic by topic."""
        return [decode(record) for name in self._topics() for record in await self.records(name)]

    async def records(self, topic: str) -> list[Record]:
        """All records of a topic."""
        count = (await self.log.topics())[topic].partitions
        names = [TopicPartition(topic, n) for n in range(count)]
        bounds = await self.log.offsets(names)
        found: list[Record] = []
        async with self.log.reader({name: bounds[name].begin for name in names}) as reader:
            while any(reader.position(name) < bounds[name].end for name in names):
                found += [record for batch in await reader.read(timeout_s=1.0) for record in batch.records]
        return found

    def _topics(self) -> tuple[str, ...]:
        return topics.output_topics(self.options)
