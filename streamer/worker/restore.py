"""Bringing a partition's states back from its changelog: what was saved, the replay floor, the marks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from streamer.errors import LogError, OffsetGone, StateMismatch
from streamer.log.base import Committed, Log
from streamer.records import Record, TopicPartition
from streamer.worker.changelog import Changelogs, Copied
from streamer.worker.epochs import Believed, believed
from streamer.worker.header import peek
from streamer.worker.progress import FLOOR_KEY, floor_of
from streamer.worker.timeline import TIMELINE_KEY, Timeline

logger = logging.getLogger(__name__)
STALE_TRIES = 6
STALE_WAIT_S = 0.05
"""How long the first wait for a newer offset takes; each later one takes twice as long."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition as it was left. states: the latest record of each stream's key, in changelog order.

    before: what was found of earlier owners. metadata: what the committed offset carries. floor: the replay floor that
    is written, None where there is none. timeline: which versions streams began with.
    """

    states: list[Record]
    committed: int
    position: int
    before: Believed
    metadata: str = ""
    floor: int | None = None
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def began_with(self) -> list[str]:
        """The versions that streams of the re-run began with."""
        return self.timeline.within(self.position, self.committed)


class Changelog(NamedTuple):
    """What counts of a changelog's partition: the latest record of each stream, under its own key, in changelog order.

    before: where all of it lies, and what does not count.
    """

    states: list[Record]
    floor: int | None
    timeline: Timeline
    before: Believed

    @property
    def highest(self) -> int:
        """The highest offset that a state is true for, 0 without any; a record that does not tell is passed over."""
        highest = 0
        for record in self.states:
            with suppress(StateMismatch):
                highest = max(highest, peek(record.value or b"").position)
        return highest


async def read_changelog(
    changelogs: Changelogs, partition: TopicPartition, committed: Committed | None, copied: Copied | None = None
) -> Changelog:
    """What counts of a changelog's partition where its input is `committed`; `copied` need not be read again.

    'Read to the end' compares positions, not records. Raises StateMismatch for what cannot be understood.
    """
    before = believed(await changelogs.read(partition, copied), committed, partition)
    records = dict(before.records)
    floor, timeline = records.pop(FLOOR_KEY, None), records.pop(TIMELINE_KEY, None)
    return Changelog(
        list(records.values()),
        None if floor is None else floor_of(floor.value),
        Timeline() if timeline is None else Timeline.load(timeline.value),
        before,
    )


async def not_behind(
    changelog: Changelog,
    committed: Committed | None,
    again: Callable[[], Awaitable[Committed | None]],
    partition: TopicPartition,
) -> Committed | None:
    """A committed offset that no state is ahead of, asked for anew until it is so (DESIGN.md rule 3).

    Where all of a commit happens at once, a state beyond the offset means a stale answer. None stays None: a group's
    offsets expire. Raises LogError when the offset stays behind.
    """
    wait_s = STALE_WAIT_S
    for _ in range(STALE_TRIES):
        if changelog.highest <= (0 if committed is None else committed.offset):
            return committed
        logger.warning("%s: a state is true for %d, beyond the offset: asking again", partition, changelog.highest)
        await asyncio.sleep(wait_s)
        wait_s *= 2
        committed = await again()
    if committed is None:
        logger.warning("%s: states are saved and no offset is committed: reading begins where the log does", partition)
        return None
    if changelog.highest <= committed.offset:
        return committed
    raise LogError(
        f"{partition}: a saved state contains everything below {changelog.highest}, the committed offset is "
        f"{committed.offset}: in transactions that cannot be, so the group's offsets were set back, or the states were "
        "written at least once by an earlier version. In the second case serve with log.delivery: at_least_once until "
        "something is committed; else import a backup (python -m streamer state import --replace)"
    )


async def restore(log: Log, partition: TopicPartition, changelog: Changelog, committed: Committed | None) -> Restored:
    """What a new owner of `partition` starts from. Raises OffsetGone when the log no longer holds the floor."""
    states, floor, timeline, before = changelog
    begin = (await log.offsets([partition]))[partition].begin
    if committed is None:
        return Restored(states, begin, begin, before, timeline=timeline)
    position = min(committed.offset, floor if floor is not None else committed.offset)
    if begin > position:
        raise OffsetGone(
            f"{partition} is kept from offset {begin}, but states must be re-run from {position}: retention was "
            "shorter than the outage; lengthen it, or start the pipeline under a new application name to begin afresh"
        )
    return Restored(states, committed.offset, position, before, committed.metadata, floor, timeline)
