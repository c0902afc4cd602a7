"""Embedded groups share partitions evenly, and a read shares itself fairly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamer.log.assignment import balanced
from streamer.log.batching import fair_shares
from streamer.records import TopicPartition

PARTITIONS = [TopicPartition(topic, partition) for topic in ("audio", "events") for partition in range(4)]

members = st.dictionaries(st.integers(0, 5), st.just(("audio", "events")), min_size=1)
owners = st.dictionaries(st.sampled_from(PARTITIONS), st.integers(0, 5))


@given(members, owners)
def test_every_partition_has_one_owner_and_loads_differ_by_at_most_one(
    members: dict[int, tuple[str, ...]], owners: dict[TopicPartition, int]
) -> None:
    target = balanced(PARTITIONS, members, owners)
    assert set(target) == set(PARTITIONS)
    loads = Counter(target.values())
    assert max(loads.values()) - min(loads[member] for member in members) <= 1


@given(members, owners)
def test_a_balanced_assignment_is_not_disturbed(
    members: dict[int, tuple[str, ...]], owners: dict[TopicPartition, int]
) -> None:
    target = balanced(PARTITIONS, members, owners)
    assert balanced(PARTITIONS, members, target) == target


@given(members, st.integers(6, 9))
def test_a_newcomer_takes_only_its_share(members: dict[int, tuple[str, ...]], newcomer: int) -> None:
    before = balanced(PARTITIONS, members, {})
    after = balanced(PARTITIONS, {**members, newcomer: ("audio", "events")}, before)
    assert {after[p] for p in PARTITIONS if after[p] != before[p]} <= {newcomer}


def test_partitions_go_only_to_members_that_want_their_topic() -> None:
    target = balanced(PARTITIONS, {"a": ("audio",), "e": ("events",)}, dict.fromkeys(PARTITIONS, "e"))
    assert all(target[partition] == partition.topic[0] for partition in PARTITIONS)


def test_partitions_that_nobody_wants_have_no_owner() -> None:
    assert balanced(PARTITIONS, {"a": ("other",)}, {}) == {}


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_shares_use_all_there_is_and_starve_nobody(available: list[int], total: int) -> None:
    shares = fair_shares(available, total)
    assert sum(shares) == min(total, sum(available))
    assert all(0 <= share <= count for share, count in zip(shares, available, strict=True))
    unsatisfied = [share for share, count in zip(shares, available, strict=True) if share < count]
    assert all(share <= min(unsatisfied) + 1 for share in unsatisfied)
