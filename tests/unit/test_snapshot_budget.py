"""Rule 3: states are saved within a budget of bytes a second, oldest unsaved first; decisions do not wait for it.

The worker takes no clock, so only least times are asserted: saving may never be quicker than its budget.
"""

from __future__ import annotations

import time

from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions
from streamer.records import Record
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of
from streamer.testing.watched_log import WatchedLog

STREAMS = [f"s{n:02}" for n in range(60)]


def bench_of(bytes_per_s: int, snapshot_interval_ms: int = 1) -> Serving:
    commit = CommitOptions(
        commit_interval_ms=1, snapshot_interval_ms=snapshot_interval_ms, snapshot_bytes_per_s=bytes_per_s
    )
    return Serving(MemoryLog(), RunningSum, options_of(commit=commit))


async def states(bench: Serving) -> list[Record]:
    """The saved states and marks in the order in which they were saved."""
    return [record for record in await bench.records(bench.changelog) if not (record.key or b"").startswith(b"\x00")]


def saved(log: WatchedLog) -> list[str]:
    """The streams whose states were committed, in order."""
    records = [record for commit in log.commits for append in commit.states for record in append.records]
    return [(record.key or b"").decode() for record in records]


async def seconds_to_save(bench: Serving) -> float:
    """How long it takes from the first to the last of all streams' states."""
    await bench.create_topics()
    await bench.feed([event(name, 1) for name in STREAMS])
    log = WatchedLog(bench.log)

    async with bench.running(log):
        await log.until(lambda: bool(saved(log)))
        started = time.monotonic()
        await log.until(lambda: len(saved(log)) == len(STREAMS))
        return time.monotonic() - started


async def test_states_are_saved_oldest_first_and_never_quicker_than_their_budget() -> None:
    generous = bench_of(bytes_per_s=10**12)
    await seconds_to_save(generous)
    size = sum(len(record.value or b"") for record in await states(generous))
    tight = bench_of(bytes_per_s=size)  # a second for all of them
    assert await seconds_to_save(tight) > 0.5
    assert [(record.key or b"").decode() for record in await states(tight)] == STREAMS


async def test_even_a_budget_below_one_state_saves_one_after_the_other() -> None:
    starved = bench_of(bytes_per_s=1)
    assert await seconds_to_save(starved) > 0.5
    assert [(record.key or b"").decode() for record in await states(starved)] == STREAMS


async def test_a_stream_with_older_unsaved_records_goes_before_one_that_was_saved_since() -> None:
    """Saved once, stream `s00` goes to the end of the line: its next unsaved record is the latest."""
    bench = bench_of(bytes_per_s=1)
    await bench.create_topics()
    await bench.feed([event(name, 1) for name in STREAMS[:5]])
    log = WatchedLog(bench.log)
    async with bench.running(log):
        await log.until(lambda: bool(saved(log)))
        await bench.feed([event(STREAMS[0], 1)])
        await log.until(lambda: len(saved(log)) == 6)
    assert saved(log) == [*STREAMS[:5], STREAMS[0]]


async def test_a_busy_partition_does_not_keep_another_from_being_saved() -> None:
    """Whatever was saved is at once unsaved again: the streams of either partition alone would fill the budget."""
    commit = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=1, snapshot_bytes_per_s=1)
    bench = Serving(MemoryLog(), RunningSum, options_of(2, commit=commit))
    await bench.create_topics()
    log = WatchedLog(bench.log)
    names = ["left 1", "left 2"], ["right 1", "right 2"]
    async with bench.running(log):
        for count in range(24):
            for partition, streams in enumerate(names):
                await bench.feed([event(name, 1) for name in streams], partition)
            await more_than(log, count)
        early = saved(log)[:24]
    assert {"left", "right"} == {name.split()[0] for name in early}, "one partition had the whole budget"


async def more_than(log: WatchedLog, count: int) -> None:
    await log.until(lambda: len(saved(log)) > count)


async def test_a_decision_is_saved_at_once_whatever_the_budget() -> None:
    bench = bench_of(bytes_per_s=1, snapshot_interval_ms=3_600_000)
    await bench.create_topics()
    await bench.feed([event(name, 1, x_eos="1") for name in STREAMS])
    log = WatchedLog(bench.log)
    async with bench.running(log):
        await log.until(lambda: bool(log.commits) and log.commits[-1].offset == len(STREAMS))
    assert sorted(saved(log)) == STREAMS
