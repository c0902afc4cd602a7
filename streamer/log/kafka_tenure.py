"""Which partitions a member owns, and under which assignment a commit was closed.

A partition may be taken from a member and come back to it while an attempt to commit is still going on. What was closed
before says nothing about the partition as it is now: somebody else may have committed meanwhile, and the member itself
has begun again at what is committed.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamer.errors import Fenced
from streamer.log.base import Commit
from streamer.records import TopicPartition


class Tenures:
    """The partitions that a member of `group` owns. Each assignment begins another tenure."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._owned: dict[TopicPartition, object] = {}
        self._seen: dict[TopicPartition, tuple[Commit, object]] = {}

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """These are owned from now on."""
        self._owned |= {partition: object() for partition in partitions}

    def end(self, partitions: Iterable[TopicPartition]) -> frozenset[TopicPartition]:
        """These are owned no more; those of them that were."""
        return frozenset(partition for partition in partitions if self._owned.pop(partition, None) is not None)

    def __contains__(self, partition: TopicPartition) -> bool:
        return partition in self._owned

    def check_owned(self, partition: TopicPartition) -> None:
        """Raises Fenced for a partition that this member does not own."""
        if partition not in self._owned:
            raise Fenced(f"{partition} is not assigned to this member of group {self._group!r}: drop its state")

    def check(self, commit: Commit) -> None:
        """Raises Fenced for a partition that is not owned, and for a commit that was first tried in another tenure."""
        self.check_owned(commit.partition)
        tenure = self._owned[commit.partition]
        seen, closed_in = self._seen.get(commit.partition, (None, None))
        if seen is not commit:
            self._seen[commit.partition] = (commit, tenure)
        elif closed_in is not tenure:
            raise Fenced(f"{commit.partition} was taken away and came back since this was closed: drop its state")
