"""The worker: one pipeline of one process. Intake > batcher > engine > task > committer, over any log.

Three loops share a session: `_read` takes records and barriers from the log, `_step` hands calls to the engine's
thread, `_commit` makes results durable. All bookkeeping is on the event loop; the model is not. A session ends by
`stop`, or by being fenced: then everything is dropped and a new session restores it.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from models.bundle import Bundle
from models.contract import Signature
from streamer.codecs.base import Decoder
from streamer.codecs.messages import Encoder
from streamer.errors import Fenced
from streamer.log.base import Log
from streamer.observe.metrics import Metrics
from streamer.options import EngineOptions, PipelineOptions
from streamer.tasks.base import Task
from streamer.worker import topics
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.engine import Engine
from streamer.worker.intake import Intake
from streamer.worker.outbox import Outbox
from streamer.worker.session import Session
from streamer.worker.stepper import EVENTS_PER_PIECE, Stepper

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
        metrics: Metrics | None = None,
        max_record_bytes: int = 1_000_000,
    ) -> None:
        """decoder: reads the input's payloads; task: says what the model's outputs mean;
        max_record_bytes: what the dead-letter topic takes.

        Raises ValueError for a device or dtype that cannot be had.
        """
        self.name = name
        self.group = topics.group_of(application, name)
        self.options = options
        self.metrics = metrics or Metrics()
        self._log = log
        self._bundle = bundle
        self._model = f"{bundle.name}-{bundle.version}@{bundle.fingerprint}"
        encoder = Encoder(f"{application}/{self.group}/{name}/live", self._model)
        self._engine = Engine(bundle.model, options.engine)
        dead = DeadLetters(encoder, max_record_bytes, options.outputs.spill_folder)
        outbox = Outbox(encoder, dead, options.outputs.pass_headers)
        tail_samples = int((bundle.settings.get("decoder") or {}).get("flush_samples", 0))
        self._stepper = Stepper(self._engine, task, options, outbox, self._model, tail_samples=tail_samples)
        run = records_per_run(bundle.model.signature, task, options.engine)
        self._intake = Intake(decoder, dead, options.streams, records_per_run=run)
        self._stopping = asyncio.Event()
        self._session: Session | None = None

    def stop(self) -> None:
        """Ask the worker to drain, commit and leave; `run` returns soon after."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. Raises what cannot be mended here: DeviceLost, OffsetGone, StateMismatch, LogError."""
        with (
            ThreadPoolExecutor(1, f"engine-{self.name}") as engine,
            ThreadPoolExecutor(1, f"intake-{self.name}") as intake,
        ):
            if self.options.engine.warm_up:
                await asyncio.get_running_loop().run_in_executor(engine, self._engine.warm_up)
            while not self._stopping.is_set():
                try:
                    await self._serve(engine, intake)
                except BaseExceptionGroup as group:
                    error = _first(group)
                    if not isinstance(error, Fenced):
                        raise error from None
                    logger.warning("fenced, starting afresh from what is committed: %s", error)
                    await asyncio.get_running_loop().run_in_executor(engine, self._stepper.table.drop_all)

    async def _serve(self, engine: ThreadPoolExecutor, intake: ThreadPoolExecutor) -> None:
        async with self._log.consumer(self.group, [self.options.input.topic]) as consumer:
            session = Session(
                self._log,
                consumer,
                self._stepper,
                self._intake,
                self.options,
                topics.changelog_of(self.group, self.options.input.topic),
                self._stopping,
                self.metrics,
                self.name,
                engine,
                intake,
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
            model=self._model,
            device=str(self._engine.device),
            partitions=self._session.partitions if self._session else 0,
            streams=len(self._stepper.table.streams),
            lag_records=self._session.lag_records if self._session else -1,
            records=self.metrics.counter("streamer_records_total", pipeline=self.name).value,
            batch_p50=batch.quantile(0.5),
            step_ms_p50=step.quantile(0.5),
            step_ms_p99=step.quantile(0.99),
        )


def records_per_run(signature: Signature, task: Task, options: EngineOptions) -> int:
    """How many events of one stream that is behind may be one row of a step.

    One, unless the model gives a frame for every event and the task says of each what no other event bears on: a
    decision needs the state right after its own record.
    """
    frame_an_event = not signature.rate_hz and signature.samples_per_frame == 1 and not signature.latency_samples
    if options.deterministic or not frame_an_event or not task.independent:
        return 1
    return min(options.chunks_per_call, EVENTS_PER_PIECE)


def _first(error: BaseException) -> BaseException:
    """The first single error of a group: the loops' group is an accident of how they run."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
