"""What every log promises: one specification, run against the memory, SQLite and Kafka logs.

The Kafka log is run against a real Apache Kafka that the test run starts itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamer.errors import Fenced, LogError, OffsetGone, RecordTooLarge, TopicMismatch, TopicMissing
from streamer.log.base import Assigned, Commit, Committed, Consumer, Log, Revoked, TopicInfo, TopicSpec
from streamer.log.clock import wall_clock_ms
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.records import Append, NewRecord, RecordBatch, TopicPartition
from tests.integration.log_conformance import PATIENCE_S, Case, Member, VirtualClock, everything, plain, read_to, turns

HOUR_MS = 3_600_000


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The name of an embedded log, or a broker's address."""
    return str(request.getfixturevalue("kafka")) if request.param == "kafka" else str(request.param)


@pytest.fixture
async def case(bootstrap: str, tmp_path: Path) -> AsyncIterator[Case]:
    """The log under test, with every member leaving at the end."""
    clock = VirtualClock()
    async with AsyncExitStack() as stack:
        if bootstrap == "memory":
            log: Log = await stack.enter_async_context(MemoryLog(now_ms=clock))
            yield Case("memory", log, lambda _: _same(log), clock, stack)
        elif bootstrap == "sqlite":

            async def another_file(on: AsyncExitStack) -> Log:
                return await on.enter_async_context(SqliteLog(tmp_path / "log.db", now_ms=clock))

            yield Case("sqlite", await another_file(stack), another_file, clock, stack)
        else:

            async def another_client(on: AsyncExitStack) -> Log:
                return await on.enter_async_context(KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)))

            yield Case("kafka", await another_client(stack), another_client, None, stack)


async def _same(log: Log) -> Log:
    return log


# --- topics ----------------------------------------------------------------------------------------------------------


async def test_a_topic_is_as_it_was_asked_for(case: Case) -> None:
    name = await case.topic(3, compact=True, retention_ms=HOUR_MS)
    assert (await case.log.topics())[name] == TopicInfo(name, 3, True, HOUR_MS, 50_000)


async def test_a_topic_without_retention_keeps_for_ever(case: Case) -> None:
    name = await case.topic(2)
    assert (await case.log.topics())[name] == TopicInfo(name, 2, False, None, 50_000)


async def test_creating_a_topic_again_changes_nothing(case: Case) -> None:
    name = await case.topic(2)
    await case.log.append(name, 0, plain([b"a"]))
    await case.log.create_topics([TopicSpec(name, 2)])
    assert [r.value for r in await everything(case.log, TopicPartition(name, 0))] == [b"a"]


@pytest.mark.parametrize("other", [TopicSpec("", 3), TopicSpec("", 2, compact=True)])
async def test_a_topic_that_exists_otherwise_is_a_mismatch(case: Case, other: TopicSpec) -> None:
    name = await case.topic(2)
    with pytest.raises(TopicMismatch, match=name):
        await case.log.create_topics([TopicSpec(name, other.partitions, other.compact)])


async def test_a_deleted_topic_is_gone_and_an_unknown_one_is_passed_over(case: Case) -> None:
    name = await case.topic()
    await case.log.delete_topics([name, "never-was"])
    async with asyncio.timeout(PATIENCE_S):
        while name in await case.log.topics():  # Kafka deletes a moment later
            pass


async def test_a_missing_topic_is_named(case: Case) -> None:
    with pytest.raises(TopicMissing, match="never-was"):
        await case.log.append("never-was", 0, plain([b"a"]))
    with pytest.raises(TopicMissing, match="never-was"):
        await case.log.offsets([TopicPartition("never-was", 0)])
    with pytest.raises(TopicMissing, match="never-was"):
        await case.stack.enter_async_context(case.log.consumer("group", ["never-was"]))


# --- append and read -------------------------------------------------------------------------------------------------


async def test_a_record_comes_back_whole(case: Case) -> None:
    name = await case.topic()
    headers = (("x-seq", b"\x00\x01"), ("again", b"1"), ("again", b""))
    sent = [
        NewRecord(b"key", b"value", headers, 1_700_000_000_123),
        NewRecord(None, b"", (), 1_600_000_000_000),
        NewRecord(b"tombstone", None, (), 1_700_000_000_125),
        NewRecord(b"\xff" * 100, bytes(range(256)) * 100, (("ключ", "значение".encode()),), 1),
    ]
    await case.log.append(name, 0, sent)
    got = await everything(case.log, TopicPartition(name, 0))
    assert [(r.key, r.value, tuple(r.headers), r.timestamp_ms) for r in got] == [
        (s.key, s.value, tuple(s.headers), s.timestamp_ms) for s in sent
    ]
    assert {(r.topic, r.partition) for r in got} == {(name, 0)}


async def test_a_record_without_a_time_gets_the_time_of_the_append(case: Case) -> None:
    name = await case.topic()
    now_ms = case.clock or wall_clock_ms
    before_ms = now_ms()
    await case.log.append(name, 0, plain([b"a"]))
    (record,) = await everything(case.log, TopicPartition(name, 0))
    assert before_ms <= record.timestamp_ms <= now_ms()


async def test_batches_keep_their_order_and_append_says_where_they_are(case: Case) -> None:
    name = await case.topic()
    firsts = [await case.log.append(name, 0, plain([b"%d" % i for i in range(n, n + 50)])) for n in range(0, 500, 50)]
    got = await everything(case.log, TopicPartition(name, 0))
    assert [r.value for r in got] == [b"%d" % i for i in range(500)]
    assert [r.offset for r in got] == sorted({r.offset for r in got})
    assert [next(r.offset for r in got if r.value == b"%d" % n) for n in range(0, 500, 50)] == firsts


async def test_appends_at_the_same_time_are_each_whole(case: Case) -> None:
    name = await case.topic()
    batches = [[b"%d/%d" % (b, i) for i in range(20)] for b in range(20)]
    firsts = await asyncio.gather(*(case.log.append(name, 0, plain(batch)) for batch in batches))
    got = {r.offset: r.value for r in await everything(case.log, TopicPartition(name, 0))}
    assert [[got[first + i] for i in range(20)] for first in firsts] == batches


async def test_a_batch_larger_than_a_broker_takes_at_once_is_split_and_kept_in_order(case: Case) -> None:
    name = await case.topic()
    values = [b"%06d" % i + b"x" * 40_000 for i in range(100)]
    await case.log.append(name, 0, plain(values))
    assert [r.value for r in await everything(case.log, TopicPartition(name, 0))] == values


async def test_an_empty_batch_says_where_the_next_record_will_be(case: Case) -> None:
    name = await case.topic()
    await case.log.append(name, 0, plain([b"a", b"b"]))
    partition = TopicPartition(name, 0)
    assert await case.log.append(name, 0, []) == (await case.log.offsets([partition]))[partition].end


async def test_reading_starts_at_any_offset(case: Case) -> None:
    name = await case.topic()
    await case.log.append(name, 0, plain([b"a", b"b", b"c"]))
    partition = TopicPartition(name, 0)
    offsets = {r.value: r.offset for r in await everything(case.log, partition)}
    end = (await case.log.offsets([partition]))[partition].end
    async with case.log.reader({partition: offsets[b"b"]}) as reader:
        assert [r.value for r in await read_to(reader, partition, end)] == [b"b", b"c"]
        reader.seek(partition, offsets[b"c"])
        assert [r.value for r in await read_to(reader, partition, end)] == [b"c"]


async def test_reading_starts_at_any_time(case: Case) -> None:
    name = await case.topic()
    partition = TopicPartition(name, 0)
    sent = [NewRecord(None, b"%d" % t, (), 1_700_000_000_000 + t) for t in (10, 20, 30)]
    await case.log.append(name, 0, sent)
    offsets = {r.value: r.offset for r in await everything(case.log, partition)}
    assert await case.log.offset_at(partition, 1_700_000_000_000) == offsets[b"10"]
    assert await case.log.offset_at(partition, 1_700_000_000_020) == offsets[b"20"]
    assert await case.log.offset_at(partition, 1_700_000_000_021) == offsets[b"30"]
    assert (
        await case.log.offset_at(partition, 1_700_000_000_031) == (await case.log.offsets([partition]))[partition].end
    )


async def test_a_read_gives_no_more_than_it_was_asked_for_and_starves_no_partition(case: Case) -> None:
    name = await case.topic(2)
    partitions = [TopicPartition(name, 0), TopicPartition(name, 1)]
    for partition in partitions:
        await case.log.append(name, partition.partition, plain([b"%d" % i for i in range(100)]))
    async with case.log.reader(dict.fromkeys(partitions, 0)) as reader:
        counts = dict.fromkeys(partitions, 0)
        async with asyncio.timeout(PATIENCE_S):
            while sum(counts.values()) < 200:
                batches = await reader.read(max_records=10, timeout_s=1.0)
                assert sum(len(batch.records) for batch in batches) <= 10
                for batch in batches:
                    counts[batch.partition] += len(batch.records)
    assert counts == dict.fromkeys(partitions, 100)


async def test_position_follows_next_offset(case: Case) -> None:
    name = await case.topic()
    partition = TopicPartition(name, 0)
    await case.log.append(name, 0, plain([b"a", b"b", b"c"]))
    async with case.log.reader({partition: 0}) as reader:
        (batch,) = await reader.read(max_records=2, timeout_s=PATIENCE_S)
        assert reader.position(partition) == batch.next_offset > batch.records[-1].offset


async def test_a_read_of_nothing_comes_back_empty(case: Case) -> None:
    name = await case.topic()
    async with case.log.reader({TopicPartition(name, 0): 0}) as reader:
        assert await reader.read() == []
        assert await reader.read(timeout_s=0.01) == []


async def test_a_waiting_reader_is_woken_by_an_append_through_another_handle(case: Case) -> None:
    name = await case.topic()
    other = await case.another(case.stack)
    async with case.log.reader({TopicPartition(name, 0): 0}) as reader:
        assert await reader.read() == []
        waiting = asyncio.create_task(reader.read(timeout_s=PATIENCE_S))
        await other.append(name, 0, plain([b"news"]))
        (batch,) = await waiting
    assert [r.value for r in batch.records] == [b"news"]


async def test_a_cancelled_read_loses_nothing(case: Case) -> None:
    name = await case.topic()
    partition = TopicPartition(name, 0)
    async with case.log.reader({partition: 0}) as reader:
        waiting = asyncio.create_task(reader.read(timeout_s=PATIENCE_S))
        await reader_has_begun()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await case.log.append(name, 0, plain([b"a"]))
        assert [r.value for r in await read_to(reader, partition, 1)] == [b"a"]


async def reader_has_begun() -> None:
    """Let a task that was just created run to its first wait."""
    await asyncio.sleep(0)


async def test_a_record_over_the_limit_is_refused_with_its_whole_batch(case: Case) -> None:
    name = await case.topic()
    with pytest.raises(RecordTooLarge, match=name):
        await case.log.append(name, 0, plain([b"small", b"x" * 60_000]))
    await case.log.append(name, 0, plain([b"next"]))
    assert [r.value for r in await everything(case.log, TopicPartition(name, 0))] == [b"next"]


async def test_a_compact_topic_takes_no_record_without_a_key(case: Case) -> None:
    name = await case.topic(compact=True)
    with pytest.raises(LogError, match="key"):
        await case.log.append(name, 0, [NewRecord(None, b"value")])


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_compaction_keeps_the_latest_record_of_each_key(case: Case) -> None:
    name = await case.topic(compact=True)
    partition = TopicPartition(name, 0)
    for i in range(100):
        await case.log.append(name, 0, [NewRecord(b"k%d" % (n % 3), b"%d/%d" % (i, n)) for n in range(6)])
    async with asyncio.timeout(PATIENCE_S):
        await case.log.append(name, 0, [NewRecord(b"k0", None)])
        while len(records := await everything(case.log, partition)) > 500:  # Kafka's cleaner comes a moment later
            await case.log.append(name, 0, [NewRecord(b"k0", None)])
    latest = {r.key: r.value for r in records}
    assert latest == {b"k0": None, b"k1": b"99/4", b"k2": b"99/5"}
    assert [r.offset for r in records] == sorted({r.offset for r in records})


async def test_a_reader_passes_the_holes_that_compaction_leaves(case: Case) -> None:
    name = await case.topic(compact=True)
    partition = TopicPartition(name, 0)
    for i in range(600):
        await case.log.append(name, 0, [NewRecord(b"same", b"%d" % i)])
    kept = (await case.log.offsets([partition]))[partition]
    async with case.log.reader({partition: 0}) as reader:
        records = await read_to(reader, partition, kept.end)
        assert reader.position(partition) == kept.end == 600
    assert records[-1].value == b"599"


async def test_what_is_older_than_the_retention_is_gone(case: Case) -> None:
    name = await case.topic(retention_ms=HOUR_MS)
    partition = TopicPartition(name, 0)
    # Kafka goes by the records' times, the embedded logs by their own clock: here both say two hours.
    two_hours_ago_ms = (case.clock or wall_clock_ms)() - 2 * HOUR_MS
    await case.log.append(name, 0, [NewRecord(b"k", b"old", (), two_hours_ago_ms)])
    if case.clock is not None:
        case.clock.advance_s(7200)
    await case.log.append(name, 0, plain([b"new"]))
    async with asyncio.timeout(PATIENCE_S):
        while (kept := (await case.log.offsets([partition]))[partition]).begin == 0:  # Kafka looks twice a second
            pass
    async with case.log.reader({partition: 0}) as reader:
        with pytest.raises(OffsetGone, match=name):
            await reader.read(timeout_s=PATIENCE_S)
        reader.seek(partition, kept.begin)
        assert [r.value for r in await read_to(reader, partition, kept.end)] in ([b"new"], [])


# --- groups ----------------------------------------------------------------------------------------------------------


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
