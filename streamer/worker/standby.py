"""Standby copies: the changelogs of partitions that others own, followed, so that a takeover reads only what is new."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from streamer.errors import LogUnavailable, OffsetGone
from streamer.log.base import Log
from streamer.records import TopicPartition
from streamer.worker.changelog import Copied

logger = logging.getLogger(__name__)
READ_TIMEOUT_S = 0.5
RETRY_S = 1.0


class Standby:
    """Follows all partitions of a changelog that are not taken over. Used on the event loop."""

    def __init__(self, log: Log, changelog: str) -> None:
        self._log = log
        self._changelog = changelog
        self._copies: dict[TopicPartition, Copied | None] = {}
        self._mine: set[TopicPartition] = set()
        self._changed = asyncio.Event()

    @property
    def nbytes(self) -> int:
        """Host memory that the copies' values take."""
        return sum(copy.nbytes for copy in self._copies.values() if copy is not None)

    def take_over(self, partition: TopicPartition) -> Copied | None:
        """The copy of a partition that is this worker's from now on, None where there is none yet."""
        self._mine.add(partition)
        self._changed.set()
        copy, self._copies[partition] = self._copies.get(partition), None
        return copy

    def follow(self, partitions: Iterable[TopicPartition]) -> None:
        """These are others' again."""
        self._mine -= set(partitions)
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled. A log that is away is waited for: nobody needs the copies but a takeover."""
        while True:
            self._changed.clear()
            try:
                await self._follow()
            except (LogUnavailable, OffsetGone) as error:
                logger.warning("standby copies are behind, beginning again: %s", error)
                self._copies = dict.fromkeys(self._copies)
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Read what is not ours until something changes hands."""
        count = (await self._log.topics())[self._changelog].partitions
        for number in range(count):
            self._copies.setdefault(TopicPartition(self._changelog, number), None)
        others = [partition for partition in self._copies if partition not in self._mine]
        if not others:
            await self._changed.wait()
            return
        for partition, bounds in (await self._log.offsets(others)).items():
            if self._copies[partition] is None and partition not in self._mine:
                self._copies[partition] = Copied(bounds.begin)
        start = {p: copy.position for p, copy in self._copies.items() if copy is not None}
        if not start:
            return
        async with self._log.reader(start) as reader:
            while not self._changed.is_set():
                for batch in await reader.read(timeout_s=READ_TIMEOUT_S):
                    if (copy := self._copies[batch.partition]) is not None:
                        copy.take(batch)
