"""The log protocol: topics with partitions, batches in and out, consumer groups. The only seam of the system.

Three implementations keep it, proven by one conformance suite: `kafka` (distributed), `sqlite` (one file, several
processes) and `memory` (one event loop). All of it is batch-first: a call's cost is paid per batch, not per record.

Times are Unix milliseconds; `timeout_s` is how long a call may wait for the first record, 0 means not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from streamer.records import Append, NewRecord, RecordBatch, TopicPartition

DEFAULT_MAX_RECORDS = 8192


@dataclass(frozen=True, slots=True)
class Compaction:
    """When a broker compacts. The embedded logs have no such settings: they drop what is superseded by themselves.

    tombstone_ms: how long a tombstone stays for readers that are under way (delete.retention.ms). segment_ms,
    segment_bytes: the youngest records are only compacted when their segment is so old or so large. min_lag_ms: and
    they themselves so old.
    """

    tombstone_ms: int = 86_400_000
    segment_ms: int = 3_600_000
    segment_bytes: int = 64 * 1024 * 1024
    min_lag_ms: int = 0


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. `retention_ms=None` keeps for ever; `compact` keeps the latest record of each key.

    compaction: None leaves its settings to the broker.
    """

    name: str
    partitions: int = 4
    compact: bool = False
    retention_ms: int | None = None
    max_record_bytes: int = 1_000_000
    compaction: Compaction | None = None


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is.

    deletes: whether records go by age or size too (a compacted topic without retention_ms may still have a limit of
    bytes). compaction: None where the log has no such settings, or does not show them to this user. replicas, in_sync:
    copies of a partition, and how many of them an append waits for at least; None on logs without copies.
    """

    name: str
    partitions: int
    compact: bool
    retention_ms: int | None
    max_record_bytes: int
    deletes: bool = True
    compaction: Compaction | None = None
    replicas: int | None = None
    in_sync: int | None = None


class OffsetRange(NamedTuple):
    """`begin` is the lowest offset kept, `end` the offset the next record will get (for readers of settled data)."""

    begin: int
    end: int


class Committed(NamedTuple):
    """A group's position in a partition and the string stored with it."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What becomes durable together for one input partition, in this order where a log has no transactions.

    outputs, then states (each true for its own offset), then the replay floor, then the offset, then tombstones
    (DESIGN.md rule 9): a crash between two of them doubles outputs, whose ids are deterministic, and loses nothing.
    """

    partition: TopicPartition
    offset: int
    metadata: str = ""
    outputs: Sequence[Append] = ()
    states: Sequence[Append] = ()
    floor: Sequence[Append] = ()
    tombstones: Sequence[Append] = ()


@dataclass(frozen=True, slots=True)
class Assigned:
    """Partitions this consumer now owns. They deliver nothing until `Consumer.resume` (restore first, then seek)."""

    partitions: frozenset[TopicPartition]
    generation: int


@dataclass(slots=True)
class Revoked:
    """Partitions this consumer is about to lose, or has lost (`lost`: too late to commit anything).

    A barrier: it stands behind every record read before. The log waits for `Consumer.settled(revoked)`, up to a fifth
    of its rebalance timeout (DESIGN.md rule 8), before another member may own the partitions.
    """

    partitions: frozenset[TopicPartition]
    lost: bool = False
    _token: object = field(default=None, repr=False)


ConsumerEvent = RecordBatch | Assigned | Revoked


class Reader(Protocol):
    """Reads given partitions from given offsets, in no group. Use as an async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        """At most `max_records` over all partitions, fairly; empty when nothing came within `timeout_s`.

        Raises OffsetGone when the position is below what is kept, TopicMissing, PermissionDenied, LogUnavailable.
        """
        ...

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at; beyond markers and holes once they were passed."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...


class Consumer(Protocol):
    """A member of a consumer group. Use as an async context manager; leaving it leaves the group.

    `read` returns barriers in order with the records: an `Assigned` before any record of its partitions, a `Revoked`
    after every record of them that was delivered.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]: ...

    def position(self, partition: TopicPartition) -> int: ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of these until `resume`; membership and heartbeats go on."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    @property
    def transactional(self) -> bool:
        """Whether all of a commit happens at once, or nothing of it: no reader sees its states without its offset."""
        ...

    async def committed(self, partition: TopicPartition) -> Committed | None:
        """This group's committed position, None where it never committed; never one from before the last commit."""
        ...

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Make these durable, each in the order of `Commit`; all in one transaction where the log has one.

        Raises Fenced when this consumer no longer owns a partition (nothing of that commit's offset is written),
        LogFull, RecordTooLarge, PermissionDenied, LogUnavailable.
        """
        ...

    def settled(self, revoked: Revoked) -> None:
        """Say that everything about a `Revoked` barrier is committed or dropped."""
        ...


class Log(Protocol):
    """Topics on one broker, one file or one event loop. Use as an async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Create what is missing. Raises TopicMismatch when one exists with another partition count or compaction."""
        ...

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics with their records; unknown names are passed over."""
        ...

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics a user may see, by name."""
        ...

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        """How many partitions these topics have now, asked anew and at little cost; missing ones are left out."""
        ...

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append a batch durably and return the offset of its first record.

        Raises TopicMissing, RecordTooLarge (nothing was written), LogFull, PermissionDenied, LogUnavailable.
        """
        ...

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """What is kept of each partition."""
        ...

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        """The offset of the first record with this timestamp or a later one; the end where there is none."""
        ...

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        """What a group has committed, seen from outside: nobody joins it, and it may be a moment old.

        Partitions without an offset are left out. Raises PermissionDenied, LogUnavailable.
        """
        ...

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader: ...

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        """A new member of `group`; a partition without committed offset starts at its lowest kept offset."""
        ...


def append_of(partition: TopicPartition, records: Sequence[NewRecord]) -> Append:
    """`records` for `partition`."""
    return Append(partition.topic, partition.partition, records)
