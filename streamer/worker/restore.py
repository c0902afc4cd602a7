"""Bringing a partition's states back from its changelog: what was saved, the replay floor, the marks."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import OffsetGone
from streamer.log.base import Committed, Log
from streamer.records import Record, TopicPartition
from streamer.worker.progress import FLOOR_KEY, floor_of


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition as it was left. states: the latest record of each stream's key, in changelog order.

    metadata: what the committed offset carries. floor: the replay floor that is written, None where there is none.
    """

    states: list[Record]
    committed: int
    position: int
    metadata: str = ""
    floor: int | None = None


async def read_changelog(log: Log, partition: TopicPartition) -> tuple[list[Record], int | None]:
    """The latest state record of every key, and the floor. 'Read to the end' compares positions, not records."""
    bounds = (await log.offsets([partition]))[partition]
    latest: dict[bytes, Record] = {}
    floor: int | None = None
    async with log.reader({partition: bounds.begin}) as reader:
        while reader.position(partition) < bounds.end:
            for batch in await reader.read(timeout_s=1.0):
                for record in batch.records:
                    if record.key == FLOOR_KEY:
                        floor = floor_of(record.value)
                    elif record.key is not None:
                        latest.pop(record.key, None)
                        if record.value is not None:
                            latest[record.key] = record
    return list(latest.values()), floor


async def restore(log: Log, changelog: str, partition: TopicPartition, committed: Committed | None) -> Restored:
    """What a new owner of `partition` starts from. Raises OffsetGone when the log no longer holds the floor."""
    states, floor = await read_changelog(log, TopicPartition(changelog, partition.partition))
    begin = (await log.offsets([partition]))[partition].begin
    if committed is None:
        return Restored(states, begin, begin)
    position = min(committed.offset, floor if floor is not None else committed.offset)
    if begin > position:
        raise OffsetGone(
            f"{partition} is kept from offset {begin}, but states must be re-run from {position}: retention was "
            "shorter than the outage; lengthen it, or start the pipeline under a new application name to begin afresh"
        )
    return Restored(states, committed.offset, position, committed.metadata, floor)
