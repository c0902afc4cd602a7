"""What a session looks at every second: lag, topics that changed, input that is about to be deleted, idle streams."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from streamer.errors import LogUnavailable
from streamer.log.base import Log
from streamer.options import PipelineOptions
from streamer.records import TopicPartition
from streamer.worker.opening import Opening
from streamer.worker.patience import patiently
from streamer.worker.progress import Progress
from streamer.worker.results import CallResult
from streamer.worker.retention import retention_alert
from streamer.worker.stepper import Stepper

T = TypeVar("T")
LOOK_S = 1.0
Step = Callable[[Callable[[], CallResult]], Awaitable[None]]
"""Does something to streams on the engine's thread and enters what came of it into the books."""


class Lookout:
    """Looks at the partitions whose books are in `progress`.

    lag_records: input not yet committed, -1 at first; unread_records: of it what was not read yet. Both as of the last
    look.
    """

    def __init__(
        self,
        log: Log,
        opening: Opening,
        stepper: Stepper,
        options: PipelineOptions,
        progress: Mapping[TopicPartition, Progress],
        step: Step,
    ) -> None:
        self.lag_records = -1
        self.unread_records = 0
        self._log = log
        self._opening = opening
        self._stepper = stepper
        self._options = options
        self._progress = progress
        self._step = step
        self._in_danger: set[TopicPartition] = set()
        self._retention_ms: int | None = None

    async def begin(self) -> None:
        """Learn what does not change. Raises LogUnavailable."""
        topics = await self._patiently("look at the input", self._log.topics)
        self._retention_ms = topics[self._options.input.topic].retention_ms

    async def look(self) -> None:
        """Raises TopicMismatch where a topic has other partitions than it had."""
        await self._opening.look()
        if not self._progress:
            return
        try:
            ends = await self._log.offsets(self._progress)
        except LogUnavailable:
            return
        behind = {p: max(0, ends[p].end - self._progress[p].committed) for p in ends if p in self._progress}
        self.lag_records = sum(behind.values())
        self.unread_records = sum(max(0, ends[p].end - self._progress[p].read_to) for p in behind)
        await self._mind_retention(behind)
        if self._options.streams.end_early:
            await self._end_idle([p for p in behind if self._is_read_to(p, ends[p].end)])

    async def _mind_retention(self, behind: Mapping[TopicPartition, int]) -> None:
        """Raise an alert before unread input is deleted."""
        for partition, lag in behind.items():
            if (progress := self._progress.get(partition)) is None:
                continue
            now_ms = int(time.time() * 1000)
            oldest_ms = progress.oldest_unread_ms if lag else None
            alert = retention_alert(
                partition,
                oldest_unread_ms=now_ms if oldest_ms is None else oldest_ms,
                retention_ms=self._retention_ms,
                now_ms=now_ms,
                firing=partition in self._in_danger,
            )
            if alert is not None:
                self._in_danger ^= {partition}
                record = self._stepper.outbox.own(alert, partition, progress.committed)
                alerts = partial(self._log.append, self._options.outputs.alerts, partition.partition, [record])
                await self._patiently("raise an alert", alerts)

    def _is_read_to(self, partition: TopicPartition, end: int) -> bool:
        """Whether everything up to `end` is stepped. What is committed does not tell: a re-run starts at the floor."""
        progress = self._progress.get(partition)
        return progress is not None and progress.watermark >= end

    async def _end_idle(self, partitions: Sequence[TopicPartition]) -> None:
        """Only partitions that are read to their end: what merely waits in a backlog is not idle (rule 6)."""
        before_ms = int((time.time() - self._options.streams.ttl_of(self._stepper.rate_hz)) * 1000)
        for partition in partitions:
            await self._step(partial(self._stepper.end_idle, before_ms, partition.partition))

    async def _patiently(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        return await patiently(what, attempt, self._options.commit.wait_s)
