"""Saved states out of a changelog into a file, and back: a pipeline continues exactly where it was stopped.

Both join the pipeline's group and wait until every partition is theirs: then no worker is live, what is saved does not
move, and whoever comes back from the dead is fenced by the log as ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from streamer.errors import Fenced, InputError, StateMismatch, TopicMismatch, TopicMissing
from streamer.log.base import Assigned, Commit, Committed, Consumer, Log, Revoked, TopicInfo, append_of
from streamer.records import NewRecord, Record, TopicPartition
from streamer.state.file import Backup, BackupWriter, Layout, Origin, PartitionStates, check_state, read_backup
from streamer.worker import topics
from streamer.worker.changelog import Changelogs
from streamer.worker.progress import FLOOR_KEY
from streamer.worker.restore import read_changelog
from streamer.worker.timeline import TIMELINE_KEY

WAIT_S = 15.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Whose states: a pipeline of an application over an input topic.

    model: `name-version@fingerprint`; layout: what one stream's recurrent state of it looks like.
    """

    application: str
    name: str
    topic: str
    model: str
    layout: Layout

    @property
    def group(self) -> str:
        return topics.group_of(self.application, self.name)

    @property
    def changelog(self) -> str:
        return topics.changelog_of(self.group, self.topic)


@dataclass(slots=True)
class TransferReport:
    """What was exported or imported. left_out: states of another model, which the pipeline is set to reset."""

    partitions: int = 0
    states: int = 0
    left_out: int = 0


async def export_states(
    log: Log, pipeline: Pipeline, path: Path | str, *, leave_out_mismatches: bool = False, wait_s: float = WAIT_S
) -> TransferReport:
    """Write what is saved of `pipeline` to a file that is not there yet.

    leave_out_mismatches: states that do not fit the model are left out instead of refused.
    Raises Fenced (a worker is live), TopicMissing, TopicMismatch, StateMismatch, InputError (nothing is saved, the file
    is there already), LogError.
    """
    there = await log.topics()
    count = _input(there, pipeline.topic).partitions
    _check_changelog(there, pipeline.changelog, count)
    origin = Origin(
        pipeline.application, pipeline.name, pipeline.topic, pipeline.model, count, time.time_ns() // 1_000_000
    )
    report = TransferReport()
    async with sole_member(log, pipeline, count, wait_s) as consumer:
        with BackupWriter(path, origin) as writer:
            anything = False
            for number in range(count):
                saved = await saved_of(log, pipeline, consumer, number)
                anything |= saved != _NOTHING
                part = await asyncio.to_thread(_part, number, saved, pipeline, leave_out_mismatches)
                await asyncio.to_thread(writer.write, part)
                report.partitions += 1
                report.states += len(part.states)
                report.left_out += len(saved.states) - len(part.states)
            if not anything:
                raise InputError(f"group {pipeline.group!r} has neither states nor offsets: there is nothing to export")
    return report


async def import_states(
    log: Log, pipeline: Pipeline, path: Path | str, *, replace: bool = False, wait_s: float = WAIT_S
) -> TransferReport:
    """Write the states of a file into the changelog of `pipeline` and commit the file's offsets.

    Everything is checked before anything is written. All is written in one transaction on the SQLite and memory logs,
    partition by partition on Kafka: an import that failed there is repeated with `replace`. replace: what is saved
    already is given up for the file's.
    Raises InputError (a damaged file), StateMismatch (another model), TopicMissing, TopicMismatch (another input,
    another number of partitions, offsets the input does not hold, states or offsets that are there), Fenced (a worker
    is live), LogError.
    """
    backup = await asyncio.to_thread(read_backup, path)
    await asyncio.to_thread(_check_backup, backup, pipeline)
    count = _input(await log.topics(), pipeline.topic).partitions
    if count != backup.origin.partitions:
        raise TopicMismatch(
            f"{path} is of {backup.origin.partitions} partitions, {pipeline.topic!r} has {count}: a stream's states "
            "must stay in its partition"
        )
    names = [TopicPartition(pipeline.topic, number) for number in range(count)]
    begins = await _check_offsets(log, names, backup)
    await log.create_topics([topics.changelog_spec(pipeline.changelog, count)])
    async with sole_member(log, pipeline, count, wait_s) as consumer:
        before = [await saved_of(log, pipeline, consumer, number) for number in range(count)]
        if not replace and any(saved != _NOTHING for saved in before):
            raise TopicMismatch(
                f"group {pipeline.group!r} has saved states or offsets already: --replace gives them up for the file's"
            )
        pairs = zip(names, backup.parts, before, strict=True)
        commits = [
            commit_of(pipeline, name, part, saved, begins[name])
            for name, part, saved in pairs
            if (part.committed, part.states, saved) != (None, (), _NOTHING)
        ]
        await consumer.commit(commits)
    return TransferReport(count, backup.states)


@asynccontextmanager
async def sole_member(log: Log, pipeline: Pipeline, count: int, wait_s: float) -> AsyncIterator[Consumer]:
    """A member of the pipeline's group that owns all `count` partitions.

    Raises Fenced when that is not so within `wait_s`: another member is live, or its session is not over yet.
    """
    wanted = {TopicPartition(pipeline.topic, number) for number in range(count)}
    owned: set[TopicPartition] = set()
    deadline = time.monotonic() + wait_s
    async with log.consumer(pipeline.group, [pipeline.topic]) as consumer:
        while owned != wanted:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Fenced(
                    f"a worker of group {pipeline.group!r} is live: stop it first (one that was killed counts as live "
                    "until its session is over: wait longer)"
                )
            for event in await consumer.read(timeout_s=min(left_s, _LOOK_S)):
                if isinstance(event, Assigned):
                    owned |= event.partitions
                elif isinstance(event, Revoked):
                    owned -= event.partitions
                    consumer.settled(event)
        yield consumer


@dataclass(frozen=True, slots=True)
class Saved:
    """timeline: which versions streams began with. keys: as they lie in the changelog, also of what counts no more."""

    states: Sequence[Record] = ()
    floor: int | None = None
    committed: Committed | None = None
    timeline: bytes = field(default=b"", compare=False)
    keys: Sequence[bytes] = field(default=(), compare=False)


_NOTHING = Saved()


async def saved_of(log: Log, pipeline: Pipeline, consumer: Consumer, number: int) -> Saved:
    """What a partition's changelog and the group's offset hold."""
    committed = await consumer.committed(TopicPartition(pipeline.topic, number))
    place = TopicPartition(pipeline.changelog, number)
    states, floor, timeline, before = await read_changelog(Changelogs(log), place, committed)
    keys = tuple(key for key in (*before.held.values(), *before.stale) if key not in (FLOOR_KEY, TIMELINE_KEY))
    return Saved(tuple(states), floor, committed, timeline.dump(), keys)


def _part(number: int, saved: Saved, pipeline: Pipeline, leave_out_mismatches: bool) -> PartitionStates:
    states: list[tuple[bytes, bytes]] = []
    for record in saved.states:
        key, data = record.key or b"", record.value or b""
        try:
            check_state(number, key, data, pipeline.model, pipeline.layout)
        except StateMismatch:
            if not leave_out_mismatches:
                raise
        else:
            states.append((key, data))
    committed = None if saved.committed is None else saved.committed.offset
    return PartitionStates(number, committed, saved.floor, tuple(states))


def _check_backup(backup: Backup, pipeline: Pipeline) -> None:
    origin = backup.origin
    if origin.model != pipeline.model:
        raise StateMismatch(
            f"the backup is of model {origin.model!r}, the pipeline {pipeline.name!r} has {pipeline.model!r}: import "
            "it with the model that wrote it"
        )
    if origin.topic != pipeline.topic:
        raise TopicMismatch(
            f"the backup's offsets are those of {origin.topic!r}, the pipeline reads {pipeline.topic!r}"
        )
    for part in backup.parts:
        for key, data in part.states:
            check_state(part.partition, key, data, pipeline.model, pipeline.layout)


def _input(there: Mapping[str, TopicInfo], topic: str) -> TopicInfo:
    if topic not in there:
        raise TopicMissing(f"there is no topic {topic!r}, the pipeline's input")
    return there[topic]


def _check_changelog(there: Mapping[str, TopicInfo], changelog: str, count: int) -> None:
    if changelog not in there:
        raise TopicMissing(f"there is no topic {changelog!r}: the pipeline has not run on this log")
    if (found := there[changelog].partitions) != count:
        raise TopicMismatch(f"changelog {changelog!r} has {found} partitions, its input {count}: no worker serves it")


async def _check_offsets(log: Log, names: Sequence[TopicPartition], backup: Backup) -> dict[TopicPartition, int]:
    """The first offsets kept. Raises TopicMismatch where the input is not the one the states were made of."""
    kept = await log.offsets(names)
    for name, part in zip(names, backup.parts, strict=True):
        begin, end = kept[name]
        if part.committed is None or part.position is None:
            continue
        if part.position < begin or part.committed > end:
            raise TopicMismatch(
                f"{name} holds offsets {begin} to {end}, the backup goes on from {part.position} and has seen all "
                f"below {part.committed}: bring the input's records here with their offsets first"
            )
    return {name: kept[name].begin for name in names}


def commit_of(pipeline: Pipeline, name: TopicPartition, part: PartitionStates, before: Saved, begin: int) -> Commit:
    """One partition's states, floor and offset; keys that are there and not in the file become tombstones."""
    changelog = TopicPartition(pipeline.changelog, name.partition)
    offset = begin if part.committed is None else part.committed
    floor = offset if part.floor is None else part.floor
    kept = {key for key, _ in part.states}
    gone = [NewRecord(key, None) for key in before.keys if key not in kept]
    states = [NewRecord(key, data) for key, data in part.states]
    floors = [NewRecord(FLOOR_KEY, str(floor).encode())]
    if before.timeline:
        floors.append(NewRecord(TIMELINE_KEY, before.timeline))
    return Commit(
        partition=name,
        offset=offset,
        # An id of its own: no worker may take states it still has in memory for these, and no owner's epoch counts on.
        metadata=uuid4().hex,
        states=[append_of(changelog, states)] if states else [],
        floor=[append_of(changelog, floors)],
        tombstones=[append_of(changelog, gone)] if gone else [],
    )
