"""What every log promises of consumer groups: one specification, run against all three logs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from streamer.errors import Fenced, RecordTooLarge
from streamer.log.base import Assigned, Commit, Committed, Consumer, Revoked
from streamer.records import Append, NewRecord, RecordBatch, TopicPartition
from tests.integration.log_conformance import PATIENCE_S, Case, Member, everything, plain, turns


async def test_partitions_are_assigned_before_any_record_and_deliver_nothing_until_resumed(case: Case) -> None:
    name = await case.topic(2)
    await case.log.append(name, 0, plain([b"a"]))
    member = await case.member("group-a" + name, name, resume=False)
    await turns(member, until=lambda: len(member.owned) == 2)
    await member.turn(timeout_s=0.2)
    assert [type(event) for event in member.seen] == [Assigned]
    member.consumer.resume(member.owned)
    await turns(member, until=lambda: member.values() == [b"a"])


async def test_a_group_that_never_committed_starts_at_the_lowest_offset(case: Case) -> None:
    name = await case.topic()
    await case.log.append(name, 0, plain([b"a"]))
    member = await case.member("group-b" + name, name)
    await turns(member, until=lambda: bool(member.records))
    assert member.values() == [b"a"]
    assert await member.consumer.committed(TopicPartition(name, 0)) is None


async def test_a_new_member_continues_at_the_committed_offset(case: Case) -> None:
    name, group = await case.topic(), "group-c"
    partition = TopicPartition(name, 0)
    await case.log.append(name, 0, plain([b"a", b"b"]))
    async with case.log.consumer(group + name, [name]) as first:
        await first_records(first)
        await first.commit([Commit(partition, 1, "by the first")])
    second = await case.member(group + name, name)
    assert await second.consumer.committed(partition) == Committed(1, "by the first")
    await turns(second, until=lambda: bool(second.records))
    assert second.values() == [b"b"]


async def test_what_a_group_has_committed_is_seen_without_joining_it(case: Case) -> None:
    name = await case.topic(2)
    group, partition, other = f"group-o{name}", TopicPartition(name, 0), TopicPartition(name, 1)
    assert await case.log.committed(group, [partition]) == {}
    await case.log.append(name, 0, plain([b"a", b"b"]))
    member = await case.member(group, name)
    await turns(member, until=lambda: bool(member.records))
    await member.consumer.commit([Commit(partition, 1, "by the member")])
    async with asyncio.timeout(PATIENCE_S):
        while not (seen := await case.log.committed(group, [partition, other])):
            await member.turn()  # in transactions it is seen a moment later
    assert seen == {partition: Committed(1, "by the member")}
    assert await case.log.committed(group, []) == {}
    assert [type(event) for event in member.seen if not isinstance(event, RecordBatch)] == [Assigned]


async def first_records(consumer: Consumer) -> list[RecordBatch]:
    """Resume whatever is assigned and return the first batches."""
    member = Member(consumer)
    await turns(member, until=lambda: bool(member.records))
    return [event for event in member.seen if isinstance(event, RecordBatch)]


async def test_a_commit_publishes_all_that_belongs_to_it(case: Case) -> None:
    name, out, changelog = await case.topic(), await case.topic(), await case.topic(compact=True)
    await case.log.append(name, 0, plain([b"in"]))
    member = await case.member("group-d" + name, name)
    await turns(member, until=lambda: bool(member.records))
    commit = Commit(
        TopicPartition(name, 0),
        1,
        "metadata",
        outputs=[Append(out, 0, plain([b"out 1", b"out 2"]))],
        states=[Append(changelog, 0, [NewRecord(b"stream", b"state")])],
        floor=[Append(changelog, 0, [NewRecord(b"floor", b"1")])],
        tombstones=[Append(changelog, 0, [NewRecord(b"ended", None)])],
    )
    await member.consumer.commit([commit])
    assert [r.value for r in await everything(case.log, TopicPartition(out, 0))] == [b"out 1", b"out 2"]
    changes = [(r.key, r.value) for r in await everything(case.log, TopicPartition(changelog, 0))]
    assert changes == [(b"stream", b"state"), (b"floor", b"1"), (b"ended", None)]
    assert await member.consumer.committed(TopicPartition(name, 0)) == Committed(1, "metadata")


async def test_what_a_member_has_committed_it_reads_at_once(case: Case) -> None:
    name = await case.topic()
    member = await case.member("group-p" + name, name)
    await turns(member, until=lambda: bool(member.owned))
    for offset in range(30):
        await member.consumer.commit([Commit(TopicPartition(name, 0), offset, f"commit {offset}")])
        assert await member.consumer.committed(TopicPartition(name, 0)) == Committed(offset, f"commit {offset}")


async def test_pausing_holds_one_partition_and_not_the_others(case: Case) -> None:
    name = await case.topic(2)
    held, free = TopicPartition(name, 0), TopicPartition(name, 1)
    member = await case.member("group-e" + name, name)
    await turns(member, until=lambda: len(member.owned) == 2)
    member.consumer.pause([held])
    for partition in (held, free):
        await case.log.append(name, partition.partition, plain([b"%d" % partition.partition]))
    await turns(member, until=lambda: bool(member.records))
    await member.turn(timeout_s=0.2)
    assert member.values() == [b"1"]
    member.consumer.resume([held])
    await turns(member, until=lambda: member.values() == [b"1", b"0"])


async def test_seeking_reads_again(case: Case) -> None:
    name = await case.topic()
    partition = TopicPartition(name, 0)
    await case.log.append(name, 0, plain([b"a", b"b"]))
    member = await case.member("group-f" + name, name)
    await turns(member, until=lambda: member.values() == [b"a", b"b"])
    assert member.consumer.position(partition) == 2
    member.consumer.seek(partition, 1)
    assert member.consumer.position(partition) == 1
    await turns(member, until=lambda: member.values() == [b"a", b"b", b"b"])


async def test_two_members_share_the_partitions_and_the_generation_rises(case: Case) -> None:
    name = await case.topic(4)
    first = await case.member("group-g" + name, name)
    await turns(first, until=lambda: len(first.owned) == 4)
    second = await case.member("group-g" + name, name, log=await case.another(case.stack))
    await turns(first, second, until=lambda: len(first.owned) == len(second.owned) == 2)
    assert not first.owned & second.owned
    generations = [event.generation for m in (first, second) for event in m.seen if isinstance(event, Assigned)]
    assert generations[-1] > generations[0]
    for partition in range(4):
        await case.log.append(name, partition, plain([b"%d" % partition]))
    await turns(first, second, until=lambda: len(first.records) + len(second.records) == 4)
    for member in (first, second):
        assert {TopicPartition(r.topic, r.partition) for r in member.records} == member.owned


async def test_when_a_member_leaves_its_partitions_move_with_their_committed_offsets(case: Case) -> None:
    name, group = await case.topic(2), "group-h"
    async with AsyncExitStack() as leaving:
        first = await case.member(group + name, name)
        consumer = await leaving.enter_async_context((await case.another(case.stack)).consumer(group + name, [name]))
        second = Member(consumer)
        await turns(first, second, until=lambda: len(first.owned) == len(second.owned) == 1)
        (moving,) = second.owned
        await case.log.append(name, moving.partition, plain([b"a", b"b"]))
        await turns(first, second, until=lambda: len(second.records) == 2)
        await consumer.commit([Commit(moving, 1)])
    first.records.clear()
    await turns(first, until=lambda: bool(first.records))
    assert first.values() == [b"b"]
    assert first.owned >= {moving}


async def test_a_partition_moves_only_when_its_owner_has_settled(case: Case) -> None:
    name = await case.topic(2)
    first = await case.member("group-i" + name, name)
    await turns(first, until=lambda: len(first.owned) == 2)
    first.settle = False
    second = await case.member("group-i" + name, name, log=await case.another(case.stack))
    await turns(first, second, until=lambda: bool(first.open_barriers))
    await second.turn(timeout_s=0.3)
    assert second.owned == set()
    (moving, *_) = first.open_barriers[0].partitions
    await first.consumer.commit([Commit(moving, 0, "still the owner's")])
    for barrier in first.open_barriers:
        first.consumer.settled(barrier)
    first.settle = True
    await turns(first, second, until=lambda: len(first.owned) == len(second.owned) == 1)
    assert await second.consumer.committed(moving) == Committed(0, "still the owner's")


async def test_no_record_comes_behind_the_barrier_of_its_partition(case: Case) -> None:
    name = await case.topic(2)
    first = await case.member("group-j" + name, name)
    await turns(first, until=lambda: len(first.owned) == 2)
    second = await case.member("group-j" + name, name, log=await case.another(case.stack))
    for i in range(200):
        await case.log.append(name, i % 2, plain([b"%d" % i]))
    await turns(first, second, until=lambda: len(second.owned) == 1 and len({*first.values(), *second.values()}) == 200)
    owned: set[TopicPartition] = set()
    for event in first.seen:
        match event:
            case Assigned(partitions):
                owned |= partitions
            case Revoked(partitions):
                owned -= partitions
            case RecordBatch(partition):
                assert partition in owned


async def test_a_commit_for_a_partition_that_was_lost_is_fenced(case: Case) -> None:
    name, out = await case.topic(2), await case.topic()
    group = "group-k" + name
    first = await case.member(group, name)
    await turns(first, until=lambda: len(first.owned) == 2)
    second = await case.member(group, name, log=await case.another(case.stack))
    await turns(first, second, until=lambda: len(first.owned) == len(second.owned) == 1)
    (lost,) = second.owned
    with pytest.raises(Fenced, match=name):
        await first.consumer.commit([Commit(lost, 1, "too late", outputs=[Append(out, 0, plain([b"stale"]))])])
    assert await second.consumer.committed(lost) is None
    assert await everything(case.log, TopicPartition(out, 0)) == []


async def test_one_refused_part_of_a_commit_leaves_the_offset_where_it_was(case: Case) -> None:
    name, out = await case.topic(), await case.topic()
    partition = TopicPartition(name, 0)
    member = await case.member("group-l" + name, name)
    await turns(member, until=lambda: bool(member.owned))
    with pytest.raises(RecordTooLarge):
        await member.consumer.commit([Commit(partition, 1, outputs=[Append(out, 0, plain([b"fits", b"x" * 60_000]))])])
    assert await member.consumer.committed(partition) is None
    assert await everything(case.log, TopicPartition(out, 0)) == []


async def test_groups_do_not_touch_each_other(case: Case) -> None:
    name = await case.topic()
    await case.log.append(name, 0, plain([b"a"]))
    one, other = await case.member("group-m" + name, name), await case.member("group-n" + name, name)
    await turns(one, other, until=lambda: bool(one.records) and bool(other.records))
    await one.consumer.commit([Commit(TopicPartition(name, 0), 1)])
    assert await other.consumer.committed(TopicPartition(name, 0)) is None
