"""Exactly-once commits: what happens when the answer to a transaction is lost (DESIGN.md rule 7).

Every transaction carries an id of its own in the committed offset's metadata. After an error nobody knows whether it
happened. Then: a new producer, which ends whatever is open; is this member still counted on; and the committed
metadata says it: this transaction's id, it happened; the id before it, it did not, and the same content is sent again;
anything else, another owner was here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import uuid4

from streamer.errors import Fenced, LogError, LogUnavailable
from streamer.log.base import Commit, Committed
from streamer.log.kafka_connection import KafkaOptions, translating
from streamer.log.kafka_publish import KafkaPublisher
from streamer.log.kafka_transactions import Transactions
from streamer.records import TopicPartition


class Member(Protocol):
    """What is to be known of the group's member that commits."""

    async def is_member(self) -> bool: ...

    async def committed_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]: ...

    def check(self, commit: Commit) -> None: ...


class _Attempt(NamedTuple):
    """A transaction whose answer was lost, and the id in its metadata."""

    commit: Commit
    id: str


class ExactCommits:
    """The transactions of one member."""

    def __init__(
        self,
        options: KafkaOptions,
        publisher: KafkaPublisher,
        group: str,
        member: Member,
        transactions: Transactions | None = None,
    ) -> None:
        self._options = options
        self._publisher = publisher
        self._group = group
        self._member = member
        self._transactions = transactions or Transactions(options, group)
        self._last_id: dict[TopicPartition, str | None] = {}
        self._lost: dict[TopicPartition, _Attempt] = {}
        self._done: dict[TopicPartition, Commit] = {}

    async def acquire(self, partitions: Sequence[TopicPartition]) -> None:
        """Fence the last owners. What is committed must be read after this."""
        self._forget(partitions)
        await self._transactions.acquire(partitions)
        self._last_id |= dict.fromkeys(partitions)

    def found(self, metadata: Mapping[TopicPartition, str]) -> None:
        """What the committed offsets of newly acquired partitions carry."""
        self._last_id |= metadata

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """These belong to others now."""
        gone = list(partitions)
        self._forget(gone)
        self._transactions.release(gone)

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for name in partitions:
            for known in (self._last_id, self._lost, self._done):
                known.pop(name, None)

    async def stop(self) -> None:
        """Close the producers."""
        await self._transactions.stop()

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Each in a transaction of its own, all at once. Raises the first error, after all have ended.

        To be tried again with the same objects: those that are settled are not sent a second time.
        """
        results = await asyncio.gather(*(self._commit(commit) for commit in commits), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _commit(self, commit: Commit) -> None:
        name = commit.partition
        if self._done.get(name) is commit:
            return
        attempt = self._lost.get(name) or _Attempt(commit, commit.metadata or uuid4().hex)
        if attempt.commit is not commit:
            raise Fenced(f"{name}: what became of an earlier transaction is not known: drop the state and restore")
        if name in self._lost and await self._happened(attempt):
            self._settled(name, attempt)
            return
        prepared = await self._publisher.prepare(
            [*commit.outputs, *commit.states, *commit.floor, *commit.tombstones], transactional=True
        )
        self._member.check(commit)
        self._lost[name] = attempt
        try:
            with translating(self._options, f"commit a transaction of {name}"):
                async with asyncio.timeout(self._options.request_timeout_s):
                    await self._transactions.run(name, commit.offset, attempt.id, prepared)
        except Fenced as error:
            # Another producer has this id. If the group still counts on this member, it is the other that is mistaken.
            raise await self._after_fencing(commit, error) from error
        self._settled(name, attempt)

    async def _after_fencing(self, commit: Commit, error: Fenced) -> LogError:
        if await self._member.is_member():
            self._member.check(commit)
            return LogUnavailable(
                f"{commit.partition}: the producer was fenced by one that the group does not know: once more"
            )
        return error

    async def _happened(self, attempt: _Attempt) -> bool:
        """Whether a transaction whose answer was lost is committed. Raises Fenced when another owner was here."""
        name = attempt.commit.partition
        if not await self._member.is_member():
            raise Fenced(f"group {self._group!r} no longer counts on this member: drop the state of {name}")
        await self._transactions.acquire([name])
        if not await self._member.is_member():
            raise Fenced(f"group {self._group!r} no longer counts on this member: drop the state of {name}")
        committed = (await self._member.committed_of([name])).get(name)
        self._member.check(attempt.commit)
        found = None if committed is None else committed.metadata
        if found == attempt.id:
            return True
        if found == self._last_id.get(name):
            return False
        raise Fenced(f"{name}: another owner has committed: drop the state and restore")

    def _settled(self, name: TopicPartition, attempt: _Attempt) -> None:
        self._last_id[name], self._done[name] = attempt.id, attempt.commit
        self._lost.pop(name, None)
