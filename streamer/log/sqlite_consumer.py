"""Readers and group members of a SQLite log. A position moves only when its batch is handed out: cancelling is safe."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from streamer.errors import Fenced, LogFull, LogUnavailable
from streamer.log import sqlite_groups, sqlite_records
from streamer.log.base import (
    DEFAULT_MAX_RECORDS,
    Assigned,
    Commit,
    Committed,
    ConsumerEvent,
    Revoked,
)
from streamer.log.sqlite_bell import data_version
from streamer.log.sqlite_groups import Lease, Signs, View
from streamer.log.sqlite_liveness import SilenceWatch, has_ended, this_process
from streamer.records import RecordBatch, TopicPartition

if TYPE_CHECKING:
    from streamer.log.sqlite import SqliteLog

_MAX_LOOK_S = 1.0
_LOOKS_PER_BEAT = 2


class SqliteReader:
    """Reads given partitions in no group."""

    def __init__(self, log: SqliteLog, start: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._positions = dict(start)
        self._turn = 0
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # a reader holds nothing between reads

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        """At most `max_records` over all partitions. Raises OffsetGone, TopicMissing, LogUnavailable."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            self._wake.clear()
            rings = self._log.bell.rings
            start = self._start()
            look = await self._log.read(partial(_look, start=start, max_records=max_records))
            batches = _handed_out(look.batches, start, self._positions)
            self._positions.update((batch.partition, batch.next_offset) for batch in batches)
            if batches or not await self._log.bell.wait(self._wake, rings, look.data_version, deadline_s):
                return batches

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at."""
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next."""
        self._positions[partition] = offset
        self._wake.set()

    def _start(self) -> dict[TopicPartition, int]:
        self._turn += 1
        return _rotated(self._positions, self._turn)


class SqliteConsumer:
    """A member of a group. Its context joins and leaves; a task of its own keeps its leases and looks after others'."""

    def __init__(self, log: SqliteLog, group: str, topics: Sequence[str]) -> None:
        self._log = log
        self._group = group
        self._topics = topics
        self._member = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._version = -1
        self._leases: dict[TopicPartition, Lease] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._look_s = min(_MAX_LOOK_S, log.lease_s / 4)
        self._members_watch = SilenceWatch(time.monotonic, 2 * self._look_s)
        self._leases_watch = SilenceWatch(time.monotonic, 2 * self._look_s)
        self._released: set[tuple[TopicPartition, int]] = set()  # settled, perhaps not yet in the file
        self._releases: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._turn = 0

    async def __aenter__(self) -> Self:
        await self._log.write(self._join)
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await asyncio.gather(*self._releases)
        # When this fails, the others find the process ended, or the lease runs out.
        with suppress(LogFull, LogUnavailable):
            await self._log.write(lambda connection: sqlite_groups.leave(connection, self._group, [self._member]))

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        """Barriers that are due, else records. Raises OffsetGone, LogUnavailable."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            self._wake.clear()
            rings = self._log.bell.rings
            self._turn += 1
            start = _rotated(self._deliverable(), self._turn)
            look = await self._log.read(partial(self._look, start=start, max_records=max_records))
            if look.view is not None and (events := self._notice(look.view)):
                return events
            batches = _handed_out(look.batches, start, self._deliverable())
            self._positions.update((batch.partition, batch.next_offset) for batch in batches)
            changed = look.view is not None  # only seen, nothing read yet: look again at once
            if batches or (
                not changed and not await self._log.bell.wait(self._wake, rings, look.data_version, deadline_s)
            ):
                return [*batches]

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at. Raises Fenced when this member does not own the partition."""
        self._check_owned(partition)
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next. Raises Fenced when this member does not own it."""
        self._check_owned(partition)
        self._positions[partition] = offset
        self._wake.set()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._paused.update(partition for partition in partitions if partition in self._leases)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver these again; one that is no longer owned is passed over."""
        self._paused.difference_update(partitions)
        self._wake.set()

    @property
    def transactional(self) -> bool:
        """All of a commit happens at once."""
        return True

    async def committed(self, partition: TopicPartition) -> Committed | None:
        """The group's committed position."""
        return await self._log.read(lambda connection: sqlite_groups.committed(connection, self._group, partition))

    async def commit(self, commits: Sequence[Commit]) -> None:
        """All of it in one transaction or, with Fenced, RecordTooLarge, TopicMissing or LogFull, nothing of it."""
        epochs = {partition: lease.epoch for partition, lease in self._leases.items()}
        await self._log.commit(self._group, self._member, epochs, commits)

    def settled(self, revoked: Revoked) -> None:
        """The partitions may move on; done in the background."""
        epochs = revoked._token
        if not isinstance(epochs, _Epochs):
            return
        held = {p: e for p, e in epochs.items() if p in self._leases and self._leases[p].epoch == e}
        if held:
            self._released |= held.items()
            for partition in held:
                del self._leases[partition]
            self._forget(held)
            task = asyncio.create_task(self._release(list(held.items())))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    def _deliverable(self) -> dict[TopicPartition, int]:
        return {
            partition: self._positions[partition]
            for partition, lease in self._leases.items()
            if not lease.revoking and partition not in self._paused
        }

    def _check_owned(self, partition: TopicPartition) -> None:
        if partition not in self._leases:
            raise Fenced(f"{partition} is not assigned to this member of group {self._group!r}: drop its state")

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._paused.discard(partition)

    def _join(self, connection: sqlite3.Connection) -> None:
        for topic in self._topics:
            sqlite_records.topic_info(connection, topic)
        members = sqlite_groups.signs(connection, self._group).members
        dead = [member for member, (process, _) in members.items() if has_ended(process)]
        sqlite_groups.leave(connection, self._group, dead)
        sqlite_groups.join(connection, self._group, self._member, this_process(), self._topics)

    def _look(self, connection: sqlite3.Connection, start: Mapping[TopicPartition, int], max_records: int) -> _Look:
        """The group where it changed, else records."""
        if sqlite_groups.version(connection, self._group) == self._version:
            return _look(connection, start, max_records)
        view = sqlite_groups.view(connection, self._group, self._member)
        return _Look(data_version(connection), [], view)

    def _notice(self, view: View) -> list[ConsumerEvent]:
        """Turn what changed into barriers: lost, newly assigned, to be revoked."""
        self._version = view.version
        self._released &= {(partition, lease.epoch) for partition, lease in view.leases.items()}
        now = {p: lease for p, lease in view.leases.items() if (p, lease.epoch) not in self._released}
        before, self._leases = self._leases, now
        lost = {p for p, lease in before.items() if p not in now or now[p].epoch != lease.epoch}
        new = {p for p in now if p not in before or p in lost}
        revoked = {p for p, lease in now.items() if lease.revoking and (p in new or not before[p].revoking)}
        self._forget(lost)
        self._begin({p: now[p] for p in new})
        events: list[ConsumerEvent] = []
        if lost:
            events.append(Revoked(frozenset(lost), lost=True))
        if new:
            events.append(Assigned(frozenset(new), view.generation))
        if revoked:
            events.append(Revoked(frozenset(revoked), _token=_Epochs({p: now[p].epoch for p in revoked})))
        return events

    def _begin(self, leases: Mapping[TopicPartition, Lease]) -> None:
        """New partitions start at the committed offset, paused."""
        for partition, lease in leases.items():
            self._positions[partition] = lease.begin if lease.committed is None else lease.committed.offset
            self._paused.add(partition)

    async def _release(self, leases: Sequence[tuple[TopicPartition, int]]) -> None:
        # When this fails for want of disk or lock, another member frees the leases after the settle time.
        with suppress(LogFull, LogUnavailable):
            await self._log.write(lambda connection: sqlite_groups.release(connection, self._group, leases))

    async def _keep(self) -> None:
        """Renew this member's lease and free what the dead and the slow hold, until cancelled."""
        looks = 0
        while True:
            await asyncio.sleep(self._look_s)
            looks += 1
            with suppress(LogFull, LogUnavailable):  # a commit meets the same and says so; here only the next try helps
                signs = await self._log.read(partial(sqlite_groups.signs, group=self._group))
                dead, overdue = self._judge(signs)
                if dead or overdue or looks % _LOOKS_PER_BEAT == 0 or self._member not in signs.members:
                    await self._log.write(partial(self._tend, dead=dead, overdue=overdue))

    def _judge(self, signs: Signs) -> tuple[list[str], list[tuple[TopicPartition, int]]]:
        """(members that are dead, leases whose owner did not settle in time)."""
        others = {member: sign for member, sign in signs.members.items() if member != self._member}
        silent_s = self._members_watch.look(others)
        dead = [m for m, (process, _) in others.items() if silent_s[m] > self._log.lease_s or has_ended(process)]
        revoking_s = self._leases_watch.look(dict.fromkeys(signs.revoking, True))
        return dead, [lease for lease, seconds in revoking_s.items() if seconds > self._log.settle_timeout_s]

    def _tend(
        self, connection: sqlite3.Connection, dead: Sequence[str], overdue: Sequence[tuple[TopicPartition, int]]
    ) -> None:
        if not sqlite_groups.beat(connection, self._group, self._member):  # was taken for dead: begin anew
            sqlite_groups.join(connection, self._group, self._member, this_process(), self._topics)
        if dead:
            sqlite_groups.leave(connection, self._group, dead)
        if overdue:
            sqlite_groups.release(connection, self._group, overdue)


class _Epochs(dict[TopicPartition, int]):
    """The token of a `Revoked`: which lease of each partition it closes."""


class _Look(NamedTuple):
    """What one snapshot showed. `view` is given instead of batches where the group has changed."""

    data_version: int
    batches: list[RecordBatch]
    view: View | None


def _look(connection: sqlite3.Connection, start: Mapping[TopicPartition, int], max_records: int) -> _Look:
    batches = sqlite_records.read(connection, start, max_records)
    return _Look(data_version(connection), batches, None)


def _handed_out(
    batches: Iterable[RecordBatch], start: Mapping[TopicPartition, int], now: Mapping[TopicPartition, int]
) -> list[RecordBatch]:
    """The batches of partitions that were not seeked, paused or lost while they were being read."""
    return [batch for batch in batches if now.get(batch.partition) == start[batch.partition]]


def _rotated(positions: Mapping[TopicPartition, int], turn: int) -> dict[TopicPartition, int]:
    """The same in another order each turn, so that nobody is always first."""
    items = list(positions.items())
    first = turn % len(items) if items else 0
    return dict(items[first:] + items[:first])
