"""Commits of at least once on Kafka: in stages, each awaited before the next (DESIGN.md rule 9).

A commit that is tried again goes on with the stage that failed. So what it publishes before its offset is never
published after somebody may have seen that offset: a worker that wakes with an answer outstanding cannot write its old
states once more behind those of its successor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamer.log.base import Commit
from streamer.log.kafka_publish import Prepared
from streamer.records import Append, TopicPartition

Move = Callable[[Sequence[Commit]], Awaitable[None]]
OFFSET = 3
"""The stage between those that publish."""


class Publisher(Protocol):
    """What publishes (`KafkaPublisher`)."""

    async def prepare(self, appends: Sequence[Append]) -> list[Prepared]: ...

    async def publish(self, appends: Sequence[Prepared]) -> list[int]: ...


@dataclass(slots=True)
class _Reached:
    """How far a commit came. stage: the next one."""

    commit: Commit
    stage: int = 0


class StagedCommits:
    """The commits of one member."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._reached: dict[TopicPartition, _Reached] = {}

    async def commit(self, commits: Sequence[Commit], move: Move) -> None:
        """Outputs, states, floors, offsets, tombstones, each of all commits. Nothing is published if any is refused.

        move: commits offsets to the group. To be tried again with the same objects. Raises what publishing and `move`
        raise.
        """
        for commit in commits:
            known = self._reached.get(commit.partition)
            if known is None or known.commit is not commit:
                self._reached[commit.partition] = _Reached(commit)
        reached = [self._reached[commit.partition] for commit in commits]
        first = min((one.stage for one in reached), default=0)
        prepared = {
            stage: await self._publisher.prepare(
                [append for one in reached if one.stage <= stage for append in _part(one.commit, stage)]
            )
            for stage in (0, 1, 2, OFFSET + 1)
            if stage >= first
        }
        for stage in range(first, OFFSET + 2):
            due = [one for one in reached if one.stage <= stage]
            if stage == OFFSET:
                await move([one.commit for one in due])
            else:
                await self._publisher.publish(prepared[stage])
            for one in due:
                one.stage = stage + 1
        for commit in commits:
            self._reached.pop(commit.partition, None)


def _part(commit: Commit, stage: int) -> Sequence[Append]:
    parts = {0: commit.outputs, 1: commit.states, 2: commit.floor, OFFSET + 1: commit.tombstones}
    return parts[stage]
