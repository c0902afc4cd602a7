"""The composition root: settings become a log, models, workers and feeds that run together in one process.

async with App(settings) as app:
    feeding = asyncio.create_task(app.feed(AudioFileFeed(["a.wav"]), "speech"))
    async for output in app.outputs("transcripts"):
        print(output.body)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from models.bundle import Bundle
from models.bundle import load as load_bundle
from models.contract import ModelError
from streamer.codecs.audio import AudioDecoder
from streamer.codecs.base import Decoder
from streamer.codecs.events import EventDecoder
from streamer.codecs.messages import Envelope, Role
from streamer.codecs.messages import decode as decode_message
from streamer.errors import ConfigurationError
from streamer.feeds.base import Feed
from streamer.feeds.pump import PumpReport, pump
from streamer.log.base import Log, TopicInfo, TopicSpec
from streamer.logs import log_of
from streamer.observe.metrics import Metrics
from streamer.options import InputOptions, PipelineOptions
from streamer.records import TopicPartition
from streamer.settings import Settings
from streamer.tasks.base import Task
from streamer.tasks.build import build_task
from streamer.worker import topics
from streamer.worker.worker import Worker, WorkerStatus

DRAIN_POLL_S = 0.05


class App:
    """Everything one process runs. Use as an async context manager: entering starts it, leaving drains and commits."""

    def __init__(
        self,
        settings: Settings,
        *,
        log: Log | None = None,
        models: Mapping[str, Bundle] | None = None,
        decoders: Mapping[str, Decoder] | None = None,
        tasks: Mapping[str, Task] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """log: an open log of the caller's instead of the settings'; models, decoders, tasks: by pipeline name, the
        caller's own instead of what the settings say (a user's own network needs no folder)."""
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._given_log = log
        self._models = dict(models or {})
        self._decoders = dict(decoders or {})
        self._own_tasks = dict(tasks or {})
        self._workers: dict[str, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._start: dict[TopicPartition, int] = {}

    @property
    def log(self) -> Log:
        """The open log."""
        return self._log

    async def __aenter__(self) -> Self:
        """Open the log, load the models, create and check the topics, start the workers.

        Raises ConfigurationError, ModelError, LogError.
        """
        async with AsyncExitStack() as stack:
            if self._given_log is not None:
                self._log = self._given_log
            else:
                self._log = await stack.enter_async_context(log_of(self.settings.log))
            await self._ensure_topics()
            self._start = {p: r.end for p, r in (await self._log.offsets(await self._output_partitions())).items()}
            for name, options in self.settings.pipelines.items():
                self._workers[name] = await self._worker(name, options)
            self._stack = stack.pop_all()
        self._tasks = [asyncio.create_task(w.run(), name=f"worker {name}") for name, w in self._workers.items()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, commit and close. Raises the first error of a worker, unless the body raised already."""
        async with self._stack:
            for worker in self._workers.values():
                worker.stop()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException)]
        if failures and error is None:
            raise failures[0]

    async def feed(
        self, feed: Feed, pipeline: str | None = None, *, buffer_s: float = 10.0, stop: asyncio.Event | None = None
    ) -> PumpReport:
        """Pump a feed into a pipeline's input (the only one without a name) until it ends.

        Raises InputError, LogError, ConfigurationError.
        """
        if pipeline is None and len(self.settings.pipelines) == 1:
            pipeline = next(iter(self.settings.pipelines))
        if pipeline not in self.settings.pipelines:
            known = ", ".join(self.settings.pipelines)
            raise ConfigurationError(f"no pipeline {pipeline!r} to feed; there are {known}")
        topic = self.settings.pipelines[pipeline].input.topic
        return await pump(feed, self._log, topic, buffer_s=buffer_s, stop=stop)

    async def outputs(
        self,
        *roles: Role,
        from_start: bool = False,
        until_drained: bool = False,
        until: asyncio.Event | None = None,
    ) -> AsyncIterator[Envelope]:
        """Messages of these output topics (all of them without arguments) as they are committed.

        Only what was published since entering, unless `from_start`. It ends, with `until_drained`, when all input that
        there is was answered (feed first), or when `until` is set and everything published by then was given.
        Raises a worker's error when one failed.
        """
        source = f"{self.settings.application}/"
        partitions = await self._output_partitions(roles)
        begin = {p: r.begin for p, r in (await self._log.offsets(partitions)).items()} if from_start else self._start
        async with self._log.reader({p: begin[p] for p in partitions}) as reader:
            while True:
                over = until.is_set() if until is not None else until_drained and await self._is_drained()
                batches = await reader.read(timeout_s=0.0 if over else DRAIN_POLL_S)
                for batch in batches:
                    for record in batch.records:
                        message = decode_message(record)
                        if message.source.startswith(source):
                            yield message
                self._raise_failure()
                if over and not batches:
                    return

    async def drained(self) -> None:
        """Wait until everything in all inputs as of now is read, stepped and committed. Raises a worker's error."""
        while not await self._is_drained():
            self._raise_failure()
            await asyncio.sleep(DRAIN_POLL_S)

    async def failed(self) -> None:
        """Wait until a worker fails, and raise its error."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        self._raise_failure()

    def status(self) -> dict[str, WorkerStatus]:
        """What every pipeline does right now."""
        return {name: worker.status() for name, worker in self._workers.items()}

    async def _is_drained(self) -> bool:
        for worker in self._workers.values():
            if not await worker.drained():
                return False
        return True

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _worker(self, name: str, options: PipelineOptions) -> Worker:
        bundle = self._models.get(name)
        try:
            if bundle is None:
                bundle = await asyncio.to_thread(load_bundle, options.model)
            return Worker(
                self._log,
                name,
                options,
                bundle,
                decoder=self._decoders.get(name) or decoder_of(options.input, bundle),
                task=await self._task(name, bundle, options),
                application=self.settings.application,
                metrics=self.metrics,
                max_record_bytes=(await self._log.topics())[options.outputs.deadletters].max_record_bytes,
            )
        except (ModelError, ValueError) as error:
            raise ConfigurationError(f"pipeline {name!r}: {error}") from error

    async def _task(self, name: str, bundle: Bundle, options: PipelineOptions) -> Task:
        if name in self._own_tasks:
            return self._own_tasks[name]
        return await asyncio.to_thread(build_task, bundle, options)

    async def _ensure_topics(self) -> None:
        there = await self._log.topics()
        specs: list[TopicSpec] = []
        changelogs: set[str] = set()
        for name, options in self.settings.pipelines.items():
            group = topics.group_of(self.settings.application, name)
            specs += topics.needed(options, group, partitions_of(options, there))
            changelogs.add(topics.changelog_of(group, options.input.topic))
        inputs = frozenset(o.input.topic for o in self.settings.pipelines.values())
        await topics.ensure(self._log, specs, frozenset(changelogs), inputs)

    async def _output_partitions(self, roles: tuple[Role, ...] = ()) -> list[TopicPartition]:
        there = await self._log.topics()
        names: dict[str, None] = {}
        for options in self.settings.pipelines.values():
            wanted = [getattr(options.outputs, role) for role in roles] if roles else topics.output_topics(options)
            names.update(dict.fromkeys(wanted))
        return [TopicPartition(name, n) for name in names for n in range(there[name].partitions)]


def partitions_of(options: PipelineOptions, there: Mapping[str, TopicInfo]) -> int:
    """The input's partitions: what it has, or what it is to be created with."""
    info = there.get(options.input.topic)
    return options.input.partitions if info is None else info.partitions


def decoder_of(options: InputOptions, bundle: Bundle) -> Decoder:
    """The decoder of what a model takes. Raises ConfigurationError when the columns are not the model's."""
    signature = bundle.model.signature
    if signature.input == "audio":
        return AudioDecoder(rate_hz=options.rate_hz, channels=options.channels)
    if len(options.columns) != signature.channels:
        raise ConfigurationError(
            f"model {bundle.name!r} takes {signature.channels} columns, the input names {len(options.columns)}: "
            f"{', '.join(options.columns)}"
        )
    return EventDecoder(
        options.columns, array=options.array, time=options.time, stream=options.stream, missing=options.missing
    )
