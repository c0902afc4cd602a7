"""Who owns which partition: the balanced, sticky assignment of the embedded logs' groups. Pure; knows no log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from streamer.records import TopicPartition

M = TypeVar("M")


def balanced(
    partitions: Iterable[TopicPartition],
    members: Mapping[M, Collection[str]],
    owners: Mapping[TopicPartition, M],
) -> dict[TopicPartition, M]:
    """An owner for each partition that anybody subscribes to; loads differ by at most one where subscriptions allow.

    partitions: all that exist. members: each member's topics, in joining order, which breaks ties.
    owners: who has what now; a partition changes hands only where the balance asks for it.
    """
    target: dict[TopicPartition, M] = {}
    load = dict.fromkeys(members, 0)
    orphans: list[TopicPartition] = []
    for partition in sorted(partitions):
        owner = owners.get(partition)
        if owner is not None and partition.topic in members.get(owner, ()):
            target[partition] = owner
            load[owner] += 1
        else:
            orphans.append(partition)
    for partition in orphans:
        eligible = [member for member, topics in members.items() if partition.topic in topics]
        if eligible:
            target[partition] = min(eligible, key=load.__getitem__)
            load[target[partition]] += 1
    while _move_one(target, members, load):
        pass
    return target


def _move_one(target: dict[TopicPartition, M], members: Mapping[M, Collection[str]], load: dict[M, int]) -> bool:
    """Move one partition to a member who has at least two fewer; False when nothing is left to even out."""
    for partition, owner in sorted(target.items(), key=lambda item: -load[item[1]]):
        eligible = [member for member, topics in members.items() if partition.topic in topics]
        poorest = min(eligible, key=load.__getitem__)
        if load[owner] - load[poorest] >= 2:
            target[partition] = poorest
            load[owner] -= 1
            load[poorest] += 1
            return True
    return False
