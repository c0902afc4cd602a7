"""The worker: one pipeline of one process. Intake > batcher > engine > task > committer, over any log.

Three loops share a session: `_read` takes records and barriers from the log, `_step` hands calls to the engine's
thread, `_commit` makes results durable. All bookkeeping is on the event loop; the model is not. A session ends by
`stop`, or by being fenced: then everything is dropped and a new session restores it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from models.bundle import Bundle
from streamer.codecs.base import Decoder
from streamer.codecs.messages import Encoder
from streamer.errors import ConfigurationError, Fenced, LogUnavailable
from streamer.log.base import Log
from streamer.observe.metrics import Metrics
from streamer.options import PipelineOptions
from streamer.records import TopicPartition
from streamer.tasks.base import Task
from streamer.worker import topics
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.engine import Engine
from streamer.worker.intake import Intake
from streamer.worker.outbox import Outbox
from streamer.worker.patience import patiently
from streamer.worker.session import Session
from streamer.worker.stepper import Stepper
from streamer.worker.version import Version, Versions

T = TypeVar("T")
logger = logging.getLogger(__name__)
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker does right now. lag_records: input not yet committed, -1 before the first look."""

    pipeline: str
    model: str
    device: str
    partitions: int
    streams: int
    lag_records: int
    records: int
    batch_p50: float
    step_ms_p50: float
    step_ms_p99: float


class Worker:
    """Serves one pipeline until `stop`. One instance runs once."""

    def __init__(
        self,
        log: Log,
        name: str,
        options: PipelineOptions,
        bundle: Bundle,
        *,
        decoder: Decoder,
        task: Task,
        application: str = "streamer",
        role: str = topics.LIVE,
        begin: Mapping[TopicPartition, int] | None = None,
        metrics: Metrics | None = None,
        max_record_bytes: int = 1_000_000,
        also: Sequence[tuple[Bundle, Task]] = (),
        find: Callable[[str], Awaitable[tuple[Bundle, Task] | None]] | None = None,
    ) -> None:
        """decoder: reads the input's payloads; task: says what the model's outputs mean;
        role: each has a group of its own. begin: where a group that has committed nothing begins, in partitions that
        are not to be read from their lowest offset.
        max_record_bytes: what the dead-letter topic takes. also: further versions of the model, for streams that were
        begun with them. find: asked for the version of a saved state that is none of these, by its
        `name-version@fingerprint`.

        Raises ValueError for a device or dtype that cannot be had, ConfigurationError for versions that do not go
        together.
        """
        self.name = name if role == topics.LIVE else f"{name}.{role}"
        self.group = topics.group_of(application, name, role)
        self.options = options
        self.metrics = metrics or Metrics()
        self._log = log
        self._begin = begin or {}
        self._make = partial(version_of, options, topics.source_of(application, name, role), max_record_bytes)
        first = self._make(bundle, task)
        warms_absent = options.on_state_mismatch == "warm_up"
        self._versions = Versions(first, options.at_model_change, warms_absent=warms_absent)
        self._find = find
        self._stepper = Stepper(self._versions, options)
        dead = self._stepper.outbox.dead
        self._intake = Intake(decoder, dead, options.streams, records_per_run=self._versions.records_per_run)
        for other in also:
            self._hold(self._make(*other))
        self._engine_thread: ThreadPoolExecutor | None = None
        self._stopping = asyncio.Event()
        self._session: Session | None = None
        self._swapping = asyncio.Lock()

    def stop(self) -> None:
        """Ask the worker to drain, commit and leave; `run` returns soon after."""
        self._stopping.set()

    async def take_up(self, bundle: Bundle, task: Task) -> None:
        """Go on with another version of the model, without a pause: streams begin with it from now on.

        Streams that live already keep the version that they have, or change over at their next record, as
        `PipelineOptions.at_model_change` says; those that are to be warmed up have been when this returns. Raises
        ValueError, ConfigurationError for a model that does not fit the pipeline.
        """
        version = await asyncio.to_thread(self._make, bundle, task)
        async with self._swapping:
            await self._swap(self._versions.of(version.model) or version)
        logger.info("model taken up", extra={"pipeline": self.name, "model": version.model})

    async def _swap(self, version: Version) -> None:
        await self._on_engine_thread(lambda: self._hold(version))
        await self._on_engine_thread(version.engine.warm_up)
        session = self._session if self._engine_thread is not None else None
        if session is not None:
            session.begin_with(version.model)
        await self._on_engine_thread(lambda: self._versions.take_up(version))
        if session is not None:
            await session.warm_up()

    async def know(self, model: str) -> bool:
        """Whether this version is held, after asking for it where it was not."""
        if self._versions.of(model) is None and self._find is not None:
            found = await self._find(model)
            if found is not None:
                version = await asyncio.to_thread(self._make, *found)
                await self._on_engine_thread(lambda: self._hold(version))
        return self._versions.of(model) is not None

    def _hold(self, version: Version) -> None:
        self._check(version)
        self._versions.add(version)
        self._intake.records_per_run = min(self._intake.records_per_run, self._versions.records_per_run)

    def _check(self, version: Version) -> None:
        """Versions of a pipeline read the same input and say the same kind of things."""
        current = self._versions.current
        ours, theirs = current.engine.signature, version.engine.signature
        if (ours.input, ours.channels) != (theirs.input, theirs.channels):
            raise ConfigurationError(
                f"model {version.model} takes {theirs.channels} x {theirs.input}, {current.model} takes "
                f"{ours.channels} x {ours.input}: they cannot serve one pipeline; give it a pipeline of its own"
            )
        if type(version.task) is not type(current.task):
            raise ConfigurationError(
                f"model {version.model} is for a {type(version.task).__name__}, {current.model} for a "
                f"{type(current.task).__name__}: they cannot serve one pipeline; give it a pipeline of its own"
            )

    async def _on_engine_thread(self, work: Callable[[], T]) -> T:
        if self._engine_thread is None:  # not running yet: nobody else uses the engine
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, work)

    async def run(self) -> None:
        """Serve until `stop`. Raises what cannot be mended here: DeviceLost, OffsetGone, StateMismatch, LogError."""
        with (
            ThreadPoolExecutor(1, f"engine-{self.name}") as engine,
            ThreadPoolExecutor(1, f"intake-{self.name}") as intake,
        ):
            self._engine_thread = engine
            try:
                if self.options.engine.warm_up:
                    await self._on_engine_thread(self._versions.current.engine.warm_up)
                while not self._stopping.is_set():
                    await self._serve_once(engine, intake)
            finally:
                async with self._swapping:  # what is under way there needs the engine's thread
                    self._engine_thread = None

    async def _serve_once(self, engine: ThreadPoolExecutor, intake: ThreadPoolExecutor) -> None:
        """One membership; a worker that was fenced begins another."""
        try:
            await self._serve(engine, intake)
        except LogUnavailable:  # it has not joined: a session's errors come as a group
            if not self._stopping.is_set():
                raise
        except BaseExceptionGroup as group:
            error = _first(group)
            if not isinstance(error, Fenced):
                raise error from None
            logger.warning("fenced, starting afresh from what is committed: %s", error)
            await asyncio.get_running_loop().run_in_executor(engine, self._stepper.table.drop_all)

    async def _serve(self, engine: ThreadPoolExecutor, intake: ThreadPoolExecutor) -> None:
        async with AsyncExitStack() as stack:
            consumer = await patiently(
                "join the group",
                lambda: stack.enter_async_context(self._log.consumer(self.group, [self.options.input.topic])),
                self.options.commit.wait_s,
                self._stopping,
            )
            session = Session(
                self._log,
                consumer,
                self._stepper,
                self._intake,
                self.know,
                self.options,
                topics.changelog_of(self.group, self.options.input.topic),
                self._stopping,
                self.metrics,
                self.name,
                engine,
                intake,
                self._begin,
            )
            self._session = session
            await session.run()

    async def drained(self) -> bool:
        """Whether everything in the input as of now is read, stepped and committed."""
        return self._session is not None and await self._session.drained()

    def status(self) -> WorkerStatus:
        """A look from outside; cheap enough for every second."""
        step = self.metrics.histogram("streamer_step_ms", pipeline=self.name)
        batch = self.metrics.histogram("streamer_batch_rows", pipeline=self.name)
        return WorkerStatus(
            pipeline=self.name,
            model=self._versions.current.model,
            device=str(self._versions.current.engine.device),
            partitions=self._session.partitions if self._session else 0,
            streams=len(self._stepper.table),
            lag_records=self._session.lag_records if self._session else -1,
            records=self.metrics.counter("streamer_records_total", pipeline=self.name).value,
            batch_p50=batch.quantile(0.5),
            step_ms_p50=step.quantile(0.5),
            step_ms_p99=step.quantile(0.99),
        )


def version_of(options: PipelineOptions, source: str, max_record_bytes: int, bundle: Bundle, task: Task) -> Version:
    """A model ready to be stepped. source: what its messages say where they come from."""
    encoder = Encoder(source, bundle.tag)
    dead = DeadLetters(encoder, max_record_bytes, options.outputs.spill_folder)
    outbox = Outbox(encoder, dead, options.outputs.pass_headers)
    tail_samples = int((bundle.settings.get("decoder") or {}).get("flush_samples", 0))
    return Version(bundle.tag, Engine(bundle.model, options.engine), task, outbox, options, tail_samples=tail_samples)


def _first(error: BaseException) -> BaseException:
    """The first single error of a group: the loops' group is an accident of how they run."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
