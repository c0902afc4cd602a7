"""Members of Kafka consumer groups over aiokafka 0.14.

Every rebalance revokes everything. In the client's callbacks partitions are only paused and barriers queued; the group
then waits for `settled`, while `read` goes on handing out barriers. A commit is at least once, in stages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiokafka import ConsumerRebalanceListener
from aiokafka import TopicPartition as ClientPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from streamer.log import kafka_records
from streamer.log.base import DEFAULT_MAX_RECORDS, Assigned, Commit, Committed, ConsumerEvent, Revoked
from streamer.log.kafka_calm import stop_client
from streamer.log.kafka_connection import KafkaOptions, translating
from streamer.log.kafka_exact import ExactCommits
from streamer.log.kafka_offsets import Membership, commit_offsets, stable_offsets
from streamer.log.kafka_publish import KafkaPublisher
from streamer.log.kafka_reader import LOOK_S, Fetching, new_client, start_client
from streamer.log.kafka_staged import StagedCommits
from streamer.log.kafka_tenure import Tenures
from streamer.log.kafka_topics import KafkaTopics
from streamer.records import RecordBatch, TopicPartition


class KafkaConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group. Its context joins and leaves."""

    def __init__(
        self,
        options: KafkaOptions,
        topics: KafkaTopics,
        publisher: KafkaPublisher,
        group: str,
        subscription: Sequence[str],
    ) -> None:
        self._options = options
        self._topics = topics
        self._publisher = publisher
        self._group = group
        self._subscription = list(subscription)
        self._fetching: Fetching | None = None
        self._events: deque[Assigned | Revoked] = deque()
        self._owned = Tenures(group)
        self._rebalancing = True  # until the first assignment
        self._wake: asyncio.Future[None] | None = None
        self._undelivered: list[RecordBatch] = []  # fetched by a read that was cancelled
        self._staged = StagedCommits(publisher)
        self._membership = Membership(-1, "")
        self._exactly = ExactCommits(options, publisher, group, self) if options.delivery == "exactly_once" else None

    async def __aenter__(self) -> Self:
        for topic in self._subscription:
            await self._topics.info(topic)
        await asyncio.to_thread(kafka_records.load)
        client = new_client(
            self._options,
            group_id=self._group,
            group_instance_id=self._options.group_instance_id,
            session_timeout_ms=int(self._options.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._options.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(self._options.rebalance_timeout_s * 1000),
            # The assignor remembers in its class what it gave: a class of its own for each member.
            partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
        )
        self._fetching = Fetching(client, self._options)
        with translating(self._options, f"join group {self._group!r}"):
            await start_client(client, columns=True)
            client.subscribe(topics=self._subscription, listener=self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for event in self._events:
            self._settle(event)  # nobody will read these any more: do not let the group wait for them
        if self._exactly is not None:
            await self._exactly.stop()
        if self._fetching is not None:
            await stop_client(self._fetching.client)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        """Records, or barriers behind them. Raises OffsetGone, PermissionDenied, LogUnavailable."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            if self._events and (events := await self._barriers()):
                return events
            left_s = deadline_s - loop.time()
            batches = await self._fetch(max_records, max(0.0, min(left_s, LOOK_S)))
            if batches:
                return [*batches]
            if left_s <= 0 and not self._events:
                return []

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at. Raises Fenced when this member does not own the partition."""
        self._owned.check_owned(partition)
        return self._open().positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next. Raises Fenced when this member does not own it."""
        self._owned.check_owned(partition)
        if not self._rebalancing:  # else it is about to be revoked anyway
            self._open().seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._open().client.pause(
            *(ClientPartition(*p) for p in partitions if p in self._owned and not self._rebalancing)
        )

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver these again; one that is no longer owned is passed over."""
        self._open().client.resume(
            *(ClientPartition(*p) for p in partitions if p in self._owned and not self._rebalancing)
        )

    @property
    def transactional(self) -> bool:
        """Whether each commit is a transaction."""
        return self._exactly is not None

    async def committed(self, partition: TopicPartition) -> Committed | None:
        """The group's committed position."""
        return (await self.committed_of([partition])).get(partition)

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Exactly once: each in a transaction. At least once: in stages (`StagedCommits`).

        Raises Fenced (no offset is written), RecordTooLarge and TopicMissing (nothing is), PermissionDenied,
        LogUnavailable (an unknown part is; the same commits may be tried again).
        """
        for commit in commits:
            self.check(commit)
        if self._exactly is not None:
            await self._exactly.commit(commits)
        else:
            await self._staged.commit(commits, partial(self._move, self._membership))

    async def _move(self, membership: Membership, commits: Sequence[Commit]) -> None:
        """Commit offsets to the group, as the member that it assigned the partitions to."""
        offsets = {commit.partition: Committed(commit.offset, commit.metadata) for commit in commits}
        with translating(self._options, f"commit offsets of group {self._group!r} in {', '.join(map(str, offsets))}"):
            async with asyncio.timeout(self._options.request_timeout_s):
                await commit_offsets(self._open().client._coordinator, self._group, membership, offsets)

    def settled(self, revoked: Revoked) -> None:
        """The partitions may move on."""
        self._settle(revoked)

    async def on_partitions_revoked(self, revoked: Iterable[ClientPartition]) -> None:
        """Called by the client: queue the barrier and let the group wait for it, a fifth of the rebalance timeout."""
        self._rebalancing = True
        partitions = frozenset(TopicPartition(p.topic, p.partition) for p in revoked)
        self._events = deque(event for event in self._events if isinstance(event, Revoked))  # never handed out
        known = frozenset(partition for partition in partitions if partition in self._owned)
        if not known:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost = self._generation() < 0  # the group has dropped this member: nothing can be committed
        self._events.append(Revoked(known, lost=lost, _token=settled))
        self._ring()
        if not lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.settle_timeout_s):
                    await settled
        self._owned.end(known)
        if self._exactly is not None:
            self._exactly.release(known)
        for partition in known:
            self._open().positions.pop(partition, None)

    def on_partitions_assigned(self, assigned: Iterable[ClientPartition]) -> None:
        """Called by the client: pause everything at once, before anything is fetched, and queue the news."""
        client = self._open().client
        for partition in assigned:
            client.pause(partition)
            client.seek(partition, 0)  # a position for now, so that the client does not look for one itself
        partitions = frozenset(TopicPartition(p.topic, p.partition) for p in assigned)
        self._rebalancing = False
        self._membership = Membership(self._generation(), client._coordinator.member_id)
        if partitions:
            self._events.append(Assigned(partitions, self._generation()))
        self._ring()

    async def _barriers(self) -> list[ConsumerEvent]:
        """The barriers that are due. An assignment is prepared first: positions at what the group has committed."""
        events: list[ConsumerEvent] = []
        while self._events:
            event = self._events[0]
            if isinstance(event, Assigned) and not await self._begin(event):
                break  # revoked again meanwhile: it was never handed out
            events.append(self._events.popleft())
        return events

    async def _begin(self, assigned: Assigned) -> bool:
        partitions = list(assigned.partitions)
        if self._exactly is not None:
            await self._exactly.acquire(partitions)
        committed = await self.committed_of(partitions)
        if self._exactly is not None:
            self._exactly.found({name: at.metadata for name, at in committed.items()})
        fresh = [ClientPartition(*p) for p in partitions if p not in committed]
        with translating(self._options, f"look for the first offsets of {', '.join(map(str, fresh))}"):
            begins = await self._open().client.beginning_offsets(fresh) if fresh else {}
        if not self._events or self._events[0] is not assigned:
            return False
        for partition in partitions:
            offset = committed[partition].offset if partition in committed else begins[ClientPartition(*partition)]
            self._open().seek(partition, offset)
        self._owned.begin(partitions)
        return True

    async def _fetch(self, max_records: int, timeout_s: float) -> list[RecordBatch]:
        """Records within `timeout_s`, or nothing as soon as a barrier comes."""
        batches, self._undelivered = self._undelivered, []
        if batches or (not self._rebalancing and (batches := await self._open().fetch(max_records, 0.0))):
            return batches
        self._wake = asyncio.get_running_loop().create_future()
        # While the group rebalances the client's getmany() waits for its end, whatever its timeout.
        fetching = asyncio.create_task(self._open().fetch(max_records, timeout_s))
        waiting: set[asyncio.Future[Any]] = {fetching, self._wake}
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not fetching.cancel() and fetching.exception() is None:
                self._undelivered = fetching.result()
            raise
        fetching.cancel()  # it hands out records only by ending: nothing is lost
        with suppress(asyncio.CancelledError):
            return await fetching
        return []

    async def committed_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Positions and metadata of the group that nothing can change any more; partitions without are left out.

        Raises LogUnavailable, also where a transaction that another owner left open has not ended in time.
        """
        with translating(self._options, f"read the committed offsets of group {self._group!r}"):
            async with asyncio.timeout(self._options.request_timeout_s):
                return await stable_offsets(self._open().client._coordinator, self._group, partitions)

    async def is_member(self) -> bool:
        """Whether the group still counts on this member in the generation that gave it its partitions."""
        coordinator = self._open().client._coordinator
        generation = coordinator.generation
        with translating(self._options, f"ask group {self._group!r} for this member"):
            async with asyncio.timeout(self._options.request_timeout_s):
                return bool(await coordinator._do_heartbeat()) and coordinator.generation == generation >= 0

    def _generation(self) -> int:
        return int(self._open().client._coordinator.generation)  # not published by the client

    def check(self, commit: Commit) -> None:
        """Raises Fenced unless its partition is owned, and has been ever since this commit was first tried."""
        self._owned.check(commit)

    def _settle(self, event: Assigned | Revoked) -> None:
        if isinstance(event, Revoked) and isinstance(event._token, asyncio.Future) and not event._token.done():
            event._token.set_result(None)

    def _ring(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _open(self) -> Fetching:
        if self._fetching is None:
            raise RuntimeError("a KafkaConsumer is an async context manager: enter it first")
        return self._fetching
