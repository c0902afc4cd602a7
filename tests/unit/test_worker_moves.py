"""Rules 2 and 8: what a commit may hold when streams finish out of order, and partitions that leave while they come."""

from __future__ import annotations

import asyncio

import pytest

from streamer.codecs.messages import Prediction, StreamEvent, decode
from streamer.log.base import Commit, Revoked
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions
from streamer.records import NewRecord, Record, TopicPartition
from streamer.testing.faults import BAD, Gate, Held, HeldLoad
from streamer.testing.models import RunningSum
from streamer.testing.serving import INPUT, Serving, event, options_of
from streamer.testing.watched_log import WatchedLog

ONE_STREAM_A_CALL = EngineOptions(max_batch=1, slots=4, device="cpu")
DECISIONS_ONLY = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=3_600_000)
"""What is saved is saved because something was decided."""


def ended_in(commit: Commit) -> set[bytes | None]:
    """Keys of the streams whose end a commit publishes."""
    records = [record for append in commit.outputs for record in append.records if append.topic == "streams"]
    return {record.key for record in records if event_of(record) == "ended"}


def event_of(record: NewRecord) -> str:
    body = decode(Record("streams", 0, 0, 0, record.key, record.value, tuple(record.headers))).body
    assert isinstance(body, StreamEvent)
    return body.event


async def test_an_end_is_not_published_before_the_mark_that_makes_it_durable() -> None:
    """A duplicate moved the stream's place past a neighbour's record that is still being stepped: N stands between."""
    gate = Gate()
    options = options_of(engine=ONE_STREAM_A_CALL, commit=DECISIONS_ONLY)
    bench = Serving(MemoryLog(), lambda: Held(gate, at=BAD), options)
    await bench.create_topics()
    log = WatchedLog(bench.log)
    await bench.feed(
        [
            event("a", 1, x_session="one", x_seq="0"),
            event("b", BAD),  # held: N stays at 1
            event("a", 1, x_session="one", x_seq="0"),  # a duplicate
            event("a", 2, x_session="two", x_seq="0"),  # ends the first a, whose last record is that at 0
        ]
    )
    async with bench.running(log) as worker:
        assert await asyncio.to_thread(gate.began.wait, 10)
        await log.until(lambda: any(commit.offset == 1 for commit in log.commits))
        assert [commit for commit in log.commits if ended_in(commit)] == []
        assert not gate.gave_up
        gate.release.set()
        await log.until(lambda: log.commits[-1].offset == 4)
        await bench.until(worker, lambda: worker.status().records == 4)
    (ending,) = [commit for commit in log.commits if ended_in(commit)]
    assert ended_in(ending) == {b"a"}
    assert ending.offset >= 3
    assert b"a" in {record.key for append in ending.states for record in append.records}


async def test_a_partition_that_is_revoked_while_it_is_restored_leaves_nothing_behind() -> None:
    """Another worker ends the stream meanwhile; back again, the partition must not show what was half restored."""
    log, gate, inputs = MemoryLog(), Gate(), options_of(2)
    first, other = Serving(log, RunningSum, inputs), Serving(log, RunningSum, inputs)
    restoring = Serving(log, RunningSum, inputs, task=HeldLoad(gate))
    watched = WatchedLog(log)
    answers = log.partition
    await first.create_topics()
    await first.feed([event("a", 1), event("a", 2)])
    async with first.running() as worker:
        await first.until(worker, lambda: answers(TopicPartition("predictions", 0)).end == 2)
    async with restoring.running(watched) as worker:
        assert await asyncio.to_thread(gate.began.wait, 10)
        async with other.running() as ending:
            await watched.until(lambda: isinstance(watched.barriers[-1], Revoked))
            assert watched.barriers[-1].partitions == {TopicPartition(INPUT, 0)}
            assert not gate.gave_up
            gate.release.set()
            await other.feed([event("a", 4, x_eos="1")])
            await other.until(ending, lambda: answers(TopicPartition("predictions", 0)).end == 3)
        await restoring.feed([event("a", 8)])
        await restoring.until(worker, lambda: answers(TopicPartition("predictions", 0)).end == 4)
    said = await first.said()
    assert [m.body.outputs["y"][0] for m in said if isinstance(m.body, Prediction) and m.body.outputs] == [1, 3, 7, 8]


@pytest.mark.parametrize(("meanwhile", "restores"), [(0, 2), (1, 3)], ids=["nobody used it", "its other owner used it"])
async def test_a_partition_that_comes_back_as_it_was_left_is_not_restored(meanwhile: int, restores: int) -> None:
    """Rule 8: warm state is valid only if the committed metadata is the id of this worker's own last commit."""
    log = MemoryLog()
    bench = Serving(log, RunningSum, options_of(2))
    await bench.create_topics()

    def answered(count: int) -> bool:
        return log.partition(TopicPartition("predictions", 0)).end == count

    async with bench.running() as staying:
        await bench.feed([event("a", 1)], 0)
        await bench.until(staying, lambda: answered(1))
        async with bench.running() as passing:
            await bench.until(passing, lambda: passing.status().partitions == 1)
            await bench.feed([event("a", 2)] * meanwhile, 0)
            await bench.until(passing, lambda: answered(1 + meanwhile))
        await bench.until(staying, lambda: staying.status().partitions == 2)
        await bench.feed([event("a", 4)], 0)
        await bench.until(staying, lambda: answered(2 + meanwhile))
        restored = staying.metrics.histogram("streamer_restore_ms", pipeline=staying.name)
        paused = staying.metrics.histogram("streamer_pause_ms", pipeline=staying.name)
        assert (restored.count, paused.count) == (restores, 1)
    sums = [m.body.outputs["y"][0] for m in await bench.said() if isinstance(m.body, Prediction) and m.body.outputs]
    assert sums == ([1.0, 3.0, 7.0] if meanwhile else [1.0, 5.0])
