"""What the conformance suite needs of any log: a handle, a second one, a clock that can be moved where there is one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from streamer.log.base import Assigned, Consumer, Log, Reader, Revoked, TopicSpec
from streamer.records import NewRecord, Record, RecordBatch, TopicPartition
from streamer.testing.clocks import FakeWallClock

PATIENCE_S = 30.0


@dataclass
class Case:
    """One log under test. `another()` opens a second handle on the same log, as another process would."""

    name: str
    log: Log
    another: Callable[[AsyncExitStack], Awaitable[Log]]
    clock: FakeWallClock | None
    stack: AsyncExitStack

    async def topic(self, partitions: int = 1, *, compact: bool = False, retention_ms: int | None = None) -> str:
        """A new topic with a name of its own."""
        name = f"topic-{uuid.uuid4().hex[:12]}"
        await self.log.create_topics([TopicSpec(name, partitions, compact, retention_ms, max_record_bytes=50_000)])
        return name

    async def member(self, group: str, topic: str, *, log: Log | None = None, resume: bool = True) -> Member:
        """A new member of `group` that has joined."""
        consumer = await self.stack.enter_async_context((log or self.log).consumer(group, [topic]))
        return Member(consumer, resume=resume)


@dataclass(eq=False)
class Member:
    """A consumer that is read in turns; it remembers what it saw and answers every barrier unless told not to."""

    consumer: Consumer
    resume: bool = True
    settle: bool = True
    owned: set[TopicPartition] = field(default_factory=set)
    records: list[Record] = field(default_factory=list)
    seen: list[Assigned | Revoked | RecordBatch] = field(default_factory=list)
    open_barriers: list[Revoked] = field(default_factory=list)

    async def turn(self, timeout_s: float = 0.05) -> None:
        """One read."""
        for event in await self.consumer.read(timeout_s=timeout_s):
            self.seen.append(event)
            match event:
                case Assigned(partitions):
                    self.owned |= partitions
                    if self.resume:
                        self.consumer.resume(partitions)
                case Revoked(partitions, lost):
                    self.owned -= partitions
                    if self.settle:
                        self.consumer.settled(event)
                    elif not lost:
                        self.open_barriers.append(event)
                case RecordBatch():
                    self.records.extend(event.records)

    def values(self) -> list[bytes | None]:
        """The values read so far."""
        return [record.value for record in self.records]


async def turns(*members: Member, until: Callable[[], bool]) -> None:
    """Read with all members in turns until it is so. Raises TimeoutError when that takes too long."""
    async with asyncio.timeout(PATIENCE_S):
        while not until():
            await asyncio.gather(*(member.turn() for member in members))


async def read_to(reader: Reader, partition: TopicPartition, end: int) -> list[Record]:
    """Everything up to the position `end`. Raises TimeoutError when that takes too long."""
    records: list[Record] = []
    async with asyncio.timeout(PATIENCE_S):
        while reader.position(partition) < end:
            for batch in await reader.read(timeout_s=1.0):
                records.extend(batch.records)
    return records


async def everything(log: Log, partition: TopicPartition) -> list[Record]:
    """All records kept of a partition."""
    kept = (await log.offsets([partition]))[partition]
    async with log.reader({partition: kept.begin}) as reader:
        return await read_to(reader, partition, kept.end)


def plain(values: Sequence[bytes]) -> list[NewRecord]:
    """Records with these values and no more."""
    return [NewRecord(b"key", value) for value in values]
