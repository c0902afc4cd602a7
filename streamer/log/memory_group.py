"""Consumer groups in memory: who owns which partition, and the barriers that travel when that changes.

A partition that must change hands is first revoked from its owner, keeps belonging to it until the barrier is settled
(or the time for that is up), and only then is assigned to the next. Partitions that stay are not disturbed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from streamer.errors import Fenced
from streamer.log.assignment import balanced
from streamer.log.base import Assigned, Committed, Revoked
from streamer.records import TopicPartition


class Member:
    """What a group knows of one consumer: its topics, what it owns, and the barriers it has not read yet."""

    def __init__(self, topics: Sequence[str], wake: asyncio.Event) -> None:
        self.topics = frozenset(topics)
        self.events: deque[Assigned | Revoked] = deque()
        self.positions: dict[TopicPartition, int] = {}  # of the partitions this member owns
        self.paused: set[TopicPartition] = set()
        self.wake = wake

    def tell(self, event: Assigned | Revoked) -> None:
        """Queue a barrier behind everything that was read."""
        self.events.append(event)
        self.wake.set()


class _Revocation:
    """A barrier that is not settled yet."""

    def __init__(self, member: Member, partitions: frozenset[TopicPartition]) -> None:
        self.member = member
        self.partitions = partitions
        self.timer: asyncio.TimerHandle | None = None


class MemoryGroup:
    """Members, owners, committed offsets and the generation, which rises whenever an assignment changes."""

    def __init__(self, name: str, settle_timeout_s: float, begin_of: Callable[[TopicPartition], int]) -> None:
        self.name = name
        self.generation = 0
        self.offsets: dict[TopicPartition, Committed] = {}
        self._settle_timeout_s = settle_timeout_s
        self._begin_of = begin_of
        self._members: dict[Member, frozenset[str]] = {}
        self._owners: dict[TopicPartition, Member] = {}
        self._target: Mapping[TopicPartition, Member] = {}
        self._revocations: dict[TopicPartition, _Revocation] = {}
        self._partitions: frozenset[TopicPartition] = frozenset()

    def join(self, member: Member, partitions: Iterable[TopicPartition]) -> None:
        """Add a member; `partitions` are all that exist."""
        self._members[member] = member.topics
        self.rebalance(partitions)

    def leave(self, member: Member) -> None:
        """Remove a member: what it owned is free at once, without a barrier."""
        del self._members[member]
        for revocation in {r for r in self._revocations.values() if r.member is member}:
            self._forget(revocation)
        self._release(member, [partition for partition, owner in self._owners.items() if owner is member])
        self.rebalance(self._partitions)

    def rebalance(self, partitions: Iterable[TopicPartition]) -> None:
        """Balance `partitions`, all that exist now, over the members."""
        self._partitions = frozenset(partitions)
        self._drop_deleted()
        self._target = balanced(self._partitions, self._members, self._owners)
        leaving: dict[Member, list[TopicPartition]] = {}
        for partition, owner in self._owners.items():
            if self._target.get(partition) is not owner and partition not in self._revocations:
                leaving.setdefault(owner, []).append(partition)
        for member, gone in leaving.items():
            self._revoke(member, frozenset(gone))
        self._grant()

    def settle(self, revoked: Revoked) -> None:
        """The owner is done with these partitions. Settling twice, or too late, changes nothing."""
        revocation = revoked._token
        if isinstance(revocation, _Revocation) and any(r is revocation for r in self._revocations.values()):
            self._forget(revocation)
            self._release(revocation.member, revocation.partitions)
            self._grant()

    def owns(self, member: Member, partition: TopicPartition) -> bool:
        """Whether `member` may commit `partition`: until its revocation is settled."""
        return self._owners.get(partition) is member

    def delivers(self, member: Member, partition: TopicPartition) -> bool:
        """Whether records of `partition` may still go to `member`: not behind its own barrier."""
        return partition in member.positions and partition not in self._revocations and partition not in member.paused

    def check_owner(self, member: Member, partition: TopicPartition) -> None:
        """Raises Fenced, also where the partition went away and came back and `member` has not read so."""
        again = any(isinstance(event, Assigned) and partition in event.partitions for event in member.events)
        if again or not self.owns(member, partition):
            raise Fenced(
                f"group {self.name!r} has given {partition} to another member (generation {self.generation}): "
                "drop its state; it comes back with an Assigned event"
            )

    def _revoke(self, member: Member, partitions: frozenset[TopicPartition]) -> None:
        revocation = _Revocation(member, partitions)
        for partition in partitions:
            self._revocations[partition] = revocation
        revoked = Revoked(partitions, _token=revocation)
        revocation.timer = asyncio.get_running_loop().call_later(self._settle_timeout_s, self.settle, revoked)
        member.tell(revoked)

    def _drop_deleted(self) -> None:
        """Partitions whose topic is gone are lost at once: there is nothing left to commit."""
        lost: dict[Member, list[TopicPartition]] = {}
        for partition, owner in self._owners.items():
            if partition not in self._partitions:
                lost.setdefault(owner, []).append(partition)
        for member, gone in lost.items():
            for partition in gone:
                self.offsets.pop(partition, None)
            self._release(member, gone)
            member.tell(Revoked(frozenset(gone), lost=True))

    def _release(self, member: Member, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._owners.pop(partition, None)
            self._revocations.pop(partition, None)
            member.positions.pop(partition, None)
            member.paused.discard(partition)

    def _forget(self, revocation: _Revocation) -> None:
        if revocation.timer is not None:
            revocation.timer.cancel()
        for partition in revocation.partitions:
            self._revocations.pop(partition, None)

    def _grant(self) -> None:
        """Give every free partition to the member it is meant for, paused, at its committed offset."""
        granted: dict[Member, list[TopicPartition]] = {}
        for partition, member in self._target.items():
            if partition not in self._owners:
                granted.setdefault(member, []).append(partition)
        self.generation += bool(granted)
        for member, partitions in granted.items():
            for partition in partitions:
                committed = self.offsets.get(partition)
                self._owners[partition] = member
                member.positions[partition] = self._begin_of(partition) if committed is None else committed.offset
                member.paused.add(partition)
            member.tell(Assigned(frozenset(partitions), self.generation))
