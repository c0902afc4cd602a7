"""A candidate in the shadow of a pipeline's live model. Whatever befalls it, the live model goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from streamer.errors import LogUnavailable, OffsetGone
from streamer.log.base import Log
from streamer.observe.agreement import Counts, Figures
from streamer.observe.metrics import Metrics
from streamer.records import TopicPartition
from streamer.shadow.watch import Sides, Watch
from streamer.worker import topics
from streamer.worker.worker import Worker, WorkerStatus

logger = logging.getLogger(__name__)
LOOK_S = 1.0

MakeWorker = Callable[[Mapping[TopicPartition, int]], Awaitable[Worker]]
"""Makes the shadow's worker; it begins at these offsets of the input where its group has committed nothing."""


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """A shadow right now. failure: why it ended, or empty. worker: None until its model is loaded."""

    pipeline: str
    failure: str
    figures: Figures
    worker: WorkerStatus | None


class Candidate:
    """Runs a shadow and counts how far it agrees. `start`, then `stop`.

    alone: the live model runs elsewhere, so that the task which `start` returns may raise what the shadow fails with.
    """

    def __init__(self, log: Log, sides: Sides, make: MakeWorker, metrics: Metrics, *, alone: bool = False) -> None:
        self._log = log
        self._sides = sides
        self._make = make
        self._watch = Watch(log, sides)
        self._metrics = metrics
        self._alone = alone
        self._worker: Worker | None = None
        self._failure = ""
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._up = metrics.gauge("streamer_shadow_up", pipeline=sides.pipeline)

    def start(self) -> asyncio.Task[None]:
        """Begin in the background: topics, model, worker."""
        self._serving = asyncio.create_task(self._contained(), name=f"shadow of {self._sides.pipeline}")
        return self._serving

    async def stop(self) -> None:
        """Drain, commit, count the rest and leave. Raises nothing of the shadow's."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.stop()
        if self._serving is not None:
            await asyncio.wait([self._serving])

    async def drained(self) -> bool:
        """Whether it has answered all input as of now, or never will."""
        return bool(self._failure) or (self._worker is not None and await self._worker.drained())

    def status(self) -> ShadowStatus:
        """A look from outside."""
        worker = None if self._worker is None else self._worker.status()
        return ShadowStatus(self._sides.pipeline, self._failure, self._watch.figures, worker)

    async def _contained(self) -> None:
        """Serve; a failure is said, counted and ends the shadow alone."""
        serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait([serving])
        finally:
            serving.cancel()
        self._up.set(0)
        if not serving.cancelled() and (error := serving.exception()) is not None:
            self._failure = f"{type(error).__name__}: {error}"
            self._metrics.counter("streamer_shadow_failures_total", pipeline=self._sides.pipeline).add()
            if self._alone:
                raise error
            logger.error("the shadow of %s ended, the live model goes on: %s", self._sides.pipeline, self._failure)

    async def _serve(self) -> None:
        await self._ensure_topics()
        begin = await self._watch.prepare()
        self._worker = worker = await self._make(begin)
        if self._stopping.is_set():
            return
        self._up.set(1)
        running = asyncio.create_task(worker.run(), name=f"worker {worker.name}")
        try:
            async with self._watch:
                while not running.done():
                    await asyncio.wait([running], timeout=await self._look())
                await running
                await self._look()
        finally:
            worker.stop()
            await asyncio.gather(running, return_exceptions=True)

    async def _ensure_topics(self) -> None:
        part, partitions = self._sides.shadow, len(await self._sides.inputs(self._log))
        changelog = topics.changelog_of(part.group, part.options.input.topic)
        specs = topics.needed(part.options, part.group, partitions)
        await topics.ensure(self._log, specs, frozenset([changelog]), frozenset([part.options.input.topic]))

    async def _look(self) -> float:
        """Count what was said since the last look, and publish the figures. Returns how long to rest, seconds."""
        try:
            rest_s = await self._watch.look()
        except LogUnavailable as error:
            logger.warning("cannot compare yet, trying again: %s", error)
            return LOOK_S
        except OffsetGone as error:
            logger.warning("a part of what was said is gone before it was compared: %s", error)
            await self._watch.skip()
            return LOOK_S
        publish(self._metrics, self._sides.pipeline, self._watch.figures)
        return max(LOOK_S, rest_s)


def publish(metrics: Metrics, pipeline: str, figures: Figures) -> None:
    """The figures as metrics."""
    kinds: dict[str, Counts] = {"final": figures.finals, "prediction": figures.predictions, "alert": figures.alerts}
    for kind, counts in kinds.items():
        for outcome in ("same", "different", "only_live", "only_shadow"):
            counter = metrics.counter("streamer_shadow_messages_total", pipeline=pipeline, kind=kind, outcome=outcome)
            counter.add(getattr(counts, outcome) - counter.value)
    if (rate := figures.word_error_rate) is not None:
        metrics.gauge("streamer_shadow_word_error_rate", pipeline=pipeline).set(rate)
    if (share := figures.finals.share_same) is not None:
        metrics.gauge("streamer_shadow_identical_finals", pipeline=pipeline).set(share)
    for name, gap in figures.gaps.items():
        labels = {"pipeline": pipeline, "field": name}
        metrics.gauge("streamer_shadow_difference_mean", **labels).set(gap.mean)
        metrics.gauge("streamer_shadow_difference_max", **labels).set(gap.maximum)
