"""Promise 8: what is read and not yet committed is bounded; reading stops above the bound and goes on below it."""

from __future__ import annotations

import asyncio

from streamer.codecs.messages import Envelope, Prediction
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions
from streamer.records import NewRecord, TopicPartition
from streamer.testing.faults import Gate, Held
from streamer.testing.models import RunningSum
from streamer.testing.serving import INPUT, Serving, event, options_of
from streamer.testing.watched_log import WatchedLog

LIMIT_BYTES = 20_000
RECORD_BYTES = 1_000


def large(value: int) -> NewRecord:
    """An event of a thousand bytes, nearly all of them spaces."""
    return NewRecord(b"a", b'{"value": %d' % value + b" " * (RECORD_BYTES - 12) + b"}", (), 0)


def sums(said: list[Envelope]) -> list[float]:
    return [m.body.outputs["y"][0] for m in said if isinstance(m.body, Prediction) and m.body.outputs]


async def delivered_or_paused(log: WatchedLog, count: int) -> None:
    await log.until(lambda: log.delivered == count or bool(log.paused))


async def paused_with(log: WatchedLog, count: int) -> None:
    await log.until(lambda: log.delivered == count and bool(log.paused))


async def test_nothing_more_is_read_while_too_much_is_in_flight_and_all_of_it_after_that() -> None:
    gate = Gate(patience_s=20.0)
    commit = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=1, max_inflight_bytes=LIMIT_BYTES)
    bench = Serving(MemoryLog(), lambda: Held(gate), options_of(commit=commit))
    await bench.create_topics()
    log = WatchedLog(bench.log)
    async with bench.running(log) as worker:
        await bench.feed([large(1)])
        assert await asyncio.to_thread(gate.began.wait, 10)
        fed = 1
        while not log.paused:
            assert log.delivered_bytes <= LIMIT_BYTES, "reading went on above the limit"
            await bench.feed([large(1)])
            fed += 1
            await delivered_or_paused(log, fed)
        delivered, empty = log.delivered, log.empty_reads
        await bench.feed([large(1)] * 100)
        await log.until(lambda: log.empty_reads >= empty + 2)
        assert log.paused == {TopicPartition(INPUT, 0)}
        assert log.delivered == delivered, "a paused partition delivered records"
        assert LIMIT_BYTES // 2 <= log.delivered_bytes <= LIMIT_BYTES
        gate.release.set()
        await bench.until(worker, lambda: worker.status().records == fed + 100)
    assert not log.paused
    assert sums(await bench.said()) == [n + 1.0 for n in range(fed + 100)]


async def test_a_limit_smaller_than_any_record_lets_one_read_at_a_time_through() -> None:
    commit = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=1, max_inflight_bytes=1)
    bench = Serving(MemoryLog(), RunningSum, options_of(commit=commit))
    await bench.create_topics()
    log = WatchedLog(bench.log)
    async with bench.running(log):
        for n in range(5):
            await bench.feed([event("a", 1)])
            await paused_with(log, n + 1)
            await log.until(lambda: not log.paused)
            assert log.commits[-1].offset == n + 1
    assert sums(await bench.said()) == [n + 1.0 for n in range(5)]


async def test_a_re_run_longer_than_the_memory_limit_goes_through() -> None:
    never_saved = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=60_000)
    tight = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=60_000, max_inflight_bytes=1)
    count = 8_500  # more than one read
    log = MemoryLog()
    first = Serving(log, RunningSum, options_of(commit=never_saved))
    await first.create_topics()
    await first.feed([event("a", 1)] * count)
    await first.serve()
    second = Serving(log, RunningSum, options_of(commit=tight))
    await second.feed([event("a", 1)])
    await second.serve()
    assert sums(await second.said())[count] == count + 1.0
