"""A log in memory, for one event loop: tests, and the lowest latency. Nothing survives the process.

Keeps the whole protocol of `streamer.log.base`: groups with barriers, fenced commits, retention and compaction.
A commit is all or nothing. Readers are woken by the append itself. Every call yields to the event loop once.
Retention counts from the time of the append (`now_ms`), whatever the records' own timestamps say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from streamer.log.base import (
    DEFAULT_MAX_RECORDS,
    Commit,
    Committed,
    ConsumerEvent,
    OffsetRange,
    Revoked,
    TopicInfo,
    TopicSpec,
)
from streamer.log.batching import check_measured, measure
from streamer.log.clock import wall_clock_ms
from streamer.log.memory_group import Member, MemoryGroup
from streamer.log.memory_topics import MemoryPartition, take
from streamer.log.topics import check_matches, info_of, topic_missing
from streamer.records import Append, NewRecord, RecordBatch, TopicPartition


class MemoryLog:
    """All topics and groups of one event loop.

    now_ms: the clock of appends, retention and compaction. settle_timeout_s: how long a revoked partition waits for
    its owner before it moves. tombstone_retention_ms: how long compaction keeps a tombstone.
    """

    def __init__(
        self,
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
        settle_timeout_s: float = 6.0,
        tombstone_retention_ms: int = 60_000,
    ) -> None:
        self._now_ms = now_ms
        self._settle_timeout_s = settle_timeout_s
        self._tombstone_retention_ms = tombstone_retention_ms
        self._topics: dict[str, TopicInfo] = {}
        self._partitions: dict[TopicPartition, MemoryPartition] = {}
        self._groups: dict[str, MemoryGroup] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # nothing is held open: members leave their group by their own context managers

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Create what is missing. Raises TopicMismatch before anything is created."""
        specs = list(specs)
        for spec in specs:
            check_matches(spec, self._topics.get(spec.name))
        for spec in specs:
            if spec.name not in self._topics:
                self._create(spec)
        self._rebalance_all()

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics with their records; their owners get a `Revoked(lost=True)`."""
        for name in names:
            info = self._topics.pop(name, None)
            for partition in range(info.partitions if info else 0):
                gone = self._partitions.pop(TopicPartition(name, partition))
                for waiter in gone.waiters:
                    waiter.set()
        self._rebalance_all()

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics by name."""
        return dict(self._topics)

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        """How many partitions these topics have; missing ones are left out."""
        return {name: self._topics[name].partitions for name in names if name in self._topics}

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append a batch, all or nothing; returns the first record's offset."""
        await asyncio.sleep(0)
        self._check_appends([Append(topic, partition, records)])
        return self.partition(TopicPartition(topic, partition)).append(records, self._now_ms())

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """What is kept of each partition."""
        found = [self.fresh_partition(name) for name in partitions]
        return {partition.name: OffsetRange(partition.begin, partition.end) for partition in found}

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        """The first offset with this time or a later one, else the end."""
        return self.fresh_partition(partition).offset_at(timestamp_ms)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        """What a group has committed; partitions without an offset are left out."""
        known = self._groups[group].offsets if group in self._groups else {}
        return {name: known[name] for name in partitions if name in known}

    def reader(self, start: Mapping[TopicPartition, int]) -> MemoryReader:
        """A reader of given partitions from given offsets, in no group."""
        return MemoryReader(self, start)

    def consumer(self, group: str, topics: Sequence[str]) -> MemoryConsumer:
        """A new member of `group`; it joins when its context is entered."""
        if group not in self._groups:
            self._groups[group] = MemoryGroup(
                group, self._settle_timeout_s, lambda name: self.fresh_partition(name).begin
            )
        return MemoryConsumer(self, self._groups[group], topics)

    def partition(self, name: TopicPartition) -> MemoryPartition:
        """Raises TopicMissing."""
        found = self._partitions.get(name)
        if found is None:
            raise topic_missing(name, "this log in memory")
        return found

    def fresh_partition(self, name: TopicPartition) -> MemoryPartition:
        """The partition after retention did its work. Raises TopicMissing."""
        partition = self.partition(name)
        partition.expire(self._now_ms())
        return partition

    def join(self, group: MemoryGroup, member: Member) -> None:
        """Let `member` join. Raises TopicMissing when a topic it wants is not there."""
        for topic in member.topics:
            self.partition(TopicPartition(topic, 0))
        group.join(member, self._partitions)

    def write(self, group: MemoryGroup, commits: Sequence[Commit]) -> None:
        """Append everything and move the offsets, or raise before anything is written."""
        appends = [append for c in commits for part in (c.outputs, c.states, c.floor, c.tombstones) for append in part]
        self._check_appends(appends)
        now_ms = self._now_ms()
        for topic, partition, records in appends:
            self._partitions[TopicPartition(topic, partition)].append(records, now_ms)
        for commit in commits:
            group.offsets[commit.partition] = Committed(commit.offset, commit.metadata)

    def _check_appends(self, appends: Iterable[Append]) -> None:
        for topic, partition, records in appends:
            self.partition(TopicPartition(topic, partition))
            check_measured(self._topics[topic], measure(records))

    def _create(self, spec: TopicSpec) -> None:
        info = info_of(spec)
        self._topics[spec.name] = info
        for number in range(spec.partitions):
            name = TopicPartition(spec.name, number)
            self._partitions[name] = MemoryPartition(name, info, self._tombstone_retention_ms)

    def _rebalance_all(self) -> None:
        for group in self._groups.values():
            group.rebalance(self._partitions)


class MemoryReader:
    """Reads given partitions in no group."""

    def __init__(self, log: MemoryLog, start: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._positions = dict(start)
        self._order = list(start)
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # a reader holds nothing between reads

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        """At most `max_records` over all partitions. Raises OffsetGone, TopicMissing."""
        await asyncio.sleep(0)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        self._order = self._order[1:] + self._order[:1]  # nobody is always first
        while True:
            partitions = [self._log.fresh_partition(name) for name in self._order]
            batches = take(partitions, self._positions, max_records)
            if batches or not await wait_for_more(self._wake, partitions, deadline_s):
                return batches

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at."""
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next."""
        self._positions[partition] = offset
        self._wake.set()


class MemoryConsumer:
    """A member of a group. Its context joins and leaves."""

    def __init__(self, log: MemoryLog, group: MemoryGroup, topics: Sequence[str]) -> None:
        self._log = log
        self._group = group
        self._wake = asyncio.Event()
        self._member = Member(topics, self._wake)
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._log.join(self._group, self._member)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.leave(self._member)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        """Barriers that are due, then records. Raises OffsetGone, TopicMissing."""
        await asyncio.sleep(0)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        self._turn += 1
        while True:
            barriers: list[ConsumerEvent] = list(self._member.events)
            self._member.events.clear()
            partitions = self._deliverable()
            batches = take(partitions, self._member.positions, max_records)
            if barriers or batches or not await wait_for_more(self._wake, partitions, deadline_s):
                return [*barriers, *batches]

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at. Raises Fenced when this member does not own the partition."""
        self._group.check_owner(self._member, partition)
        return self._member.positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next. Raises Fenced when this member does not own it."""
        self._group.check_owner(self._member, partition)
        self._member.positions[partition] = offset
        self._wake.set()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._member.paused.update(p for p in partitions if self._group.owns(self._member, p))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver these again; one that is no longer owned is passed over."""
        self._member.paused.difference_update(partitions)
        self._wake.set()

    @property
    def transactional(self) -> bool:
        """All of a commit happens at once."""
        return True

    async def committed(self, partition: TopicPartition) -> Committed | None:
        """The group's committed position."""
        return self._group.offsets.get(partition)

    async def commit(self, commits: Sequence[Commit]) -> None:
        """All of it or, with Fenced, RecordTooLarge or TopicMissing, nothing of it."""
        await asyncio.sleep(0)
        for commit in commits:
            self._group.check_owner(self._member, commit.partition)
        self._log.write(self._group, commits)

    def settled(self, revoked: Revoked) -> None:
        """The partitions may move on."""
        self._group.settle(revoked)

    def _deliverable(self) -> list[MemoryPartition]:
        names = [name for name in self._member.positions if self._group.delivers(self._member, name)]
        turn = self._turn % len(names) if names else 0
        return [self._log.fresh_partition(name) for name in (*names[turn:], *names[:turn])]


async def wait_for_more(wake: asyncio.Event, partitions: Sequence[MemoryPartition], deadline_s: float) -> bool:
    """Wait until something may have changed; False when `deadline_s` (loop time) came first."""
    if asyncio.get_running_loop().time() >= deadline_s:
        return False
    wake.clear()
    for partition in partitions:
        partition.waiters.add(wake)
    try:
        async with asyncio.timeout_at(deadline_s):
            await wake.wait()
        return True
    except TimeoutError:
        return False
    finally:
        for partition in partitions:
            partition.waiters.discard(wake)
