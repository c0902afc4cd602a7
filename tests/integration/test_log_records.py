"""What every log promises of records written and read: one specification, run against all three logs."""

from __future__ import annotations

import asyncio

import pytest

from streamer.errors import LogError, RecordTooLarge
from streamer.log.clock import wall_clock_ms
from streamer.records import NewRecord, TopicPartition
from tests.integration.log_conformance import PATIENCE_S, Case, everything, plain, read_to


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
