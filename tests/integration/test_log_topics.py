"""What every log promises of topics and what they keep: one specification, run against all three logs."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from streamer.errors import OffsetGone, TopicMismatch, TopicMissing
from streamer.log.base import Compaction, TopicInfo, TopicSpec
from streamer.log.clock import wall_clock_ms
from streamer.records import NewRecord, TopicPartition
from tests.integration.log_conformance import PATIENCE_S, Case, everything, plain, read_to

HOUR_MS = 3_600_000


async def info(case: Case, name: str) -> TopicInfo:
    """A topic without what only a broker has."""
    return replace((await case.log.topics())[name], compaction=None, replicas=None, in_sync=None)


async def test_a_topic_is_as_it_was_asked_for(case: Case) -> None:
    name = await case.topic(3, compact=True, retention_ms=HOUR_MS)
    assert await info(case, name) == TopicInfo(name, 3, True, HOUR_MS, 50_000, deletes=True)


async def test_a_topic_without_retention_keeps_for_ever(case: Case) -> None:
    name = await case.topic(2)
    assert await info(case, name) == TopicInfo(name, 2, False, None, 50_000, deletes=True)


async def test_a_compacted_topic_without_retention_deletes_nothing(case: Case) -> None:
    name = await case.topic(2, compact=True)
    assert await info(case, name) == TopicInfo(name, 2, True, None, 50_000, deletes=False)


async def test_a_broker_compacts_as_it_was_asked_to_and_tells_how_many_copies_there_are(case: Case) -> None:
    name = f"changelog-{uuid.uuid4().hex}"
    wanted = Compaction(tombstone_ms=7_200_000, segment_ms=60_000, segment_bytes=2_000_000, min_lag_ms=1000)
    await case.log.create_topics([TopicSpec(name, 1, compact=True, compaction=wanted)])
    found = (await case.log.topics())[name]
    told = (found.compaction, found.replicas, found.in_sync)
    assert told == ((wanted, 1, 1) if case.name == "kafka" else (None, None, None))


async def test_partitions_are_counted_anew_each_time_and_missing_topics_left_out(case: Case) -> None:
    name = await case.topic(2)
    assert await case.log.partition_counts([name, "never-was"]) == {name: 2}
    assert await case.log.partition_counts([]) == {}
    await case.log.delete_topics([name])
    async with asyncio.timeout(PATIENCE_S):
        while await case.log.partition_counts([name]):  # Kafka deletes a moment later
            pass


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
