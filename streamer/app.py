"""The composition root: settings become a log, models, workers and feeds that run together in one process.

async with App(settings) as app:
    feeding = asyncio.create_task(app.feed(AudioFileFeed(["a.wav"]), "speech"))
    async for output in app.outputs("transcripts"):
        print(output.body)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

from models.bundle import Bundle
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
from streamer.shadow.candidate import Candidate, ShadowStatus
from streamer.shadow.watch import Sides
from streamer.shelf import Served, Shelf
from streamer.tasks.base import Task
from streamer.worker import topics
from streamer.worker.worker import Worker, WorkerStatus

logger = logging.getLogger(__name__)
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
        also: Mapping[str, Sequence[Bundle]] | None = None,
        metrics: Metrics | None = None,
        parts: Collection[str] = (topics.LIVE, topics.SHADOW),
    ) -> None:
        """log: an open log of the caller's instead of the settings'; models, decoders, tasks: by pipeline name, the
        caller's own instead of what the settings say (a user's own network needs no folder); a shadow's are under
        `name.shadow`. also: further versions of the models that streams or saved states may have. parts: which parts
        of the pipelines run here, the live ones, their shadows, or both."""
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._given_log = log
        self._models = dict(models or {})
        self._decoders = dict(decoders or {})
        self._own_tasks = dict(tasks or {})
        self._also = dict(also or {})
        self._workers: dict[str, Worker] = {}
        self._shelves: dict[str, Shelf] = {}
        self._parts = frozenset(parts)
        self._shadows: dict[str, Candidate] = {}
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
                if topics.LIVE in self._parts:
                    self._workers[name] = await self._worker(name, options)
                if topics.SHADOW in self._parts:
                    self._shadow(name, options)
            self._stack = stack.pop_all()
        self._tasks = [asyncio.create_task(w.run(), name=f"worker {name}") for name, w in self._workers.items()]
        shadows = [shadow.start() for shadow in self._shadows.values()]
        if topics.LIVE not in self._parts:
            self._tasks += shadows
        self._watching = [
            asyncio.create_task(self._watch(name, options.watch_model_s), name=f"watch {name}")
            for name, options in self.settings.pipelines.items()
            if options.watch_model_s is not None
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, commit and close. Raises the first error of a worker, unless the body raised already."""
        async with self._stack:
            for watch in self._watching:
                watch.cancel()
            for worker in self._workers.values():
                worker.stop()
            stopping = [shadow.stop() for shadow in self._shadows.values()]
            results = await asyncio.gather(*self._tasks, *stopping, return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException)]
        if failures and error is None:
            raise failures[0]

    async def feed(
        self, feed: Feed, pipeline: str | None = None, *, buffer_s: float = 10.0, stop: asyncio.Event | None = None
    ) -> PumpReport:
        """Pump a feed into a pipeline's input (the only one without a name) until it ends.

        Raises InputError, LogError, ConfigurationError.
        """
        topic = self.settings.pipelines[self._named(pipeline)].input.topic
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
        if not self._tasks:
            raise ConfigurationError("nothing runs here: no pipeline has a shadow")
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        self._raise_failure()

    def _named(self, pipeline: str | None) -> str:
        """A pipeline's name; none means the only one."""
        if pipeline is None and len(self.settings.pipelines) == 1:
            return next(iter(self.settings.pipelines))
        if pipeline not in self.settings.pipelines:
            raise ConfigurationError(f"no pipeline {pipeline!r}; there are {', '.join(self.settings.pipelines)}")
        return pipeline

    async def take_up(self, model: Bundle, pipeline: str | None = None, *, task: Task | None = None) -> None:
        """Serve another version of a pipeline's model (of the only one without a name) from now on, without a restart.

        task: one's own instead of what fits the model. What becomes of streams that live is said by the pipeline's
        `at_model_change`. Raises ConfigurationError for a model that does not fit the pipeline.
        """
        name = self._named(pipeline)
        options = self.settings.pipelines[name]
        await self._take_up(name, await Shelf(options, model, task or self._own_tasks.get(name)).current())

    async def look_for_models(self) -> None:
        """Take up what has changed of the models' files. What cannot be served is said, and the old one goes on."""
        for name in self._workers:
            await self._look(name, complete=True)

    async def _watch(self, name: str, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._look(name)

    async def _look(self, name: str, *, complete: bool = False) -> None:
        try:
            if (served := await self._shelves[name].changed(complete=complete)) is not None:
                await self._take_up(name, served)
        except ConfigurationError as error:
            logger.warning("the model has changed and is not taken up, the old one goes on: %s", error)

    async def _take_up(self, name: str, served: Served) -> None:
        try:
            await self._workers[name].take_up(*served)
        except ValueError as error:
            raise ConfigurationError(f"pipeline {name!r}: {error}") from error

    def status(self) -> dict[str, WorkerStatus]:
        """What every pipeline does right now, and every shadow that serves, as `name.shadow`."""
        serving = {name: worker.status() for name, worker in self._workers.items()}
        shadows = (shadow.worker for shadow in self.shadows().values())
        return serving | {worker.pipeline: worker for worker in shadows if worker is not None}

    def shadows(self) -> dict[str, ShadowStatus]:
        """How each pipeline's shadow fares, and how far it agrees with the live model since entering."""
        return {name: shadow.status() for name, shadow in self._shadows.items()}

    async def _is_drained(self) -> bool:
        parts: list[Worker | Candidate] = [*self._workers.values(), *self._shadows.values()]
        for part in parts:
            if not await part.drained():
                return False
        return True

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _shadow(self, name: str, options: PipelineOptions) -> None:
        """What runs in the shadow of a pipeline, if anything: not started yet, and nothing of it is loaded."""
        live, *shadows = topics.parts_of(self.settings.application, name, options)
        for part in shadows:
            sides = Sides(self.settings.application, name, live, part)
            make = partial(self._worker, name, part.options, part.role)
            alone = topics.LIVE not in self._parts
            self._shadows[name] = Candidate(self._log, sides, make, self.metrics, alone=alone)

    async def _worker(
        self,
        name: str,
        options: PipelineOptions,
        role: str = topics.LIVE,
        begin: Mapping[TopicPartition, int] | None = None,
    ) -> Worker:
        key = name if role == topics.LIVE else f"{name}.{role}"
        own = self._models.get(key), self._own_tasks.get(key), self._also.get(key, ())
        shelf = self._shelves[key] = Shelf(options, *own)
        try:
            bundle, task = await shelf.current()
            there = await self._log.topics()
            topics.look_at(there, options, topics.group_of(self.settings.application, name, role), bundle.model)
            return Worker(
                self._log,
                name,
                options,
                bundle,
                decoder=self._decoders.get(key) or self._decoders.get(name) or decoder_of(options.input, bundle),
                task=task,
                also=await shelf.also(),
                find=shelf.find,
                application=self.settings.application,
                role=role,
                begin=begin,
                metrics=self.metrics,
                max_record_bytes=there[options.outputs.deadletters].max_record_bytes,
            )
        except (ModelError, ValueError) as error:
            raise ConfigurationError(f"pipeline {key!r}: {error}") from error

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
