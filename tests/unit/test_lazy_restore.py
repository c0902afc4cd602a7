"""A partition goes live before its states are looked into. Nobody notices; if a state is damaged, that is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from models.bundle import wrap
from streamer.codecs.messages import Body, Prediction, StreamEvent
from streamer.errors import StateMismatch
from streamer.log.base import Log
from streamer.log.memory import MemoryLog
from streamer.options import EngineOptions, PipelineOptions, StreamOptions
from streamer.records import NewRecord, Record
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of
from streamer.worker import snapshot
from streamer.worker.header import Known, LaterLayout, seal_of
from streamer.worker.pending import Pending
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.snapshot import Mark
from streamer.worker.table import StreamTable
from streamer.worker.version import Version, Versions
from streamer.worker.waking import Waking
from streamer.worker.worker import version_of

HOUR_MS = 3_600_000


def bench_over(log: Log, **parts: Any) -> Serving:
    return Serving(log, RunningSum, options_of(**parts))


async def left(log: Log, *records: NewRecord, **parts: Any) -> Serving:
    """A pipeline whose worker served these records, saved everything and left."""
    bench = bench_over(log, **parts)
    await bench.create_topics()
    await bench.feed(records)
    async with bench.running() as worker:
        await bench.until(worker, lambda: worker.status().records == len(records))
    return bench


async def saved_of(bench: Serving, stream: str) -> bytes:
    """The latest state of a stream."""
    records = await bench.records(bench.changelog)
    return next(r.value for r in reversed(records) if r.key == stream.encode() and r.value is not None)


async def damage(bench: Serving, stream: str) -> None:
    """Flip one bit in the middle of what is saved of a stream."""
    data = bytearray(await saved_of(bench, stream))
    data[len(data) // 2] ^= 1
    await bench.log.append(bench.changelog, 0, [NewRecord(stream.encode(), bytes(data))])


async def bodies(bench: Serving, stream: str) -> list[Body]:
    said = [m for m in await bench.said() if getattr(m.body, "stream", None) == stream]
    return [m.body for m in sorted(said, key=lambda m: int(m.id.split("/")[2]))]


async def sums(bench: Serving, stream: str) -> list[float]:
    """What was answered to each record of a stream."""
    predictions = [body for body in await bodies(bench, stream) if isinstance(body, Prediction)]
    return [body.outputs["y"][0] for body in predictions if body.outputs is not None]


async def events(bench: Serving, stream: str) -> list[str]:
    return sorted(body.event for body in await bodies(bench, stream) if isinstance(body, StreamEvent))


async def never() -> bool:
    return False


RESETS = {"on_state_mismatch": "reset"}


async def test_streams_go_on_from_states_that_were_not_looked_into_when_their_partition_went_live() -> None:
    async with MemoryLog() as log:
        bench = await left(log, *(event(f"s{n}", n) for n in range(100)))
        await bench.feed([event(f"s{n}", 1000) for n in range(0, 100, 2)])
        await bench.serve()
        assert [await sums(bench, f"s{n}") for n in range(4)] == [[0, 1000], [1], [2, 1002], [3]]


async def test_a_damaged_state_ends_the_worker_although_no_record_comes_for_its_stream() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2))
        await damage(bench, "b")
        with pytest.raises(StateMismatch, match=r"changelog/0/\d+: .*damaged.*on_state_mismatch: reset"):
            await bench.serve(until=never)


async def test_a_damaged_state_ends_the_worker_before_its_streams_next_record_is_answered() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2))
        await damage(bench, "b")
        await bench.feed([event("b", 3)])
        with pytest.raises(StateMismatch, match="damaged"):
            await bench.serve()
        assert await sums(bench, "b") == [2]


async def test_where_the_policy_says_so_a_stream_with_a_damaged_state_is_reset_and_its_next_record_begins_it() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2), **RESETS)
        await damage(bench, "b")
        await bench.feed([event("b", 3), event("a", 4)])
        await bench.serve()
        assert await events(bench, "b") == ["reset", "started", "started"]
        assert await sums(bench, "b") == [2, 3]
        assert await sums(bench, "a") == [1, 5]


async def test_a_reset_without_any_record_is_said_once_however_often_workers_come_and_go() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2), **RESETS)
        await damage(bench, "b")
        for _ in range(3):
            async with bench.running() as worker:
                await bench.until(worker, lambda: worker.status().streams == 1)
        assert await events(bench, "b") == ["reset", "started"]
        said = [body for body in await bodies(bench, "b") if isinstance(body, StreamEvent)]
        assert ["damaged" in body.reason for body in said if body.event == "reset"] == [True]


async def test_a_state_that_a_later_version_wrote_stops_the_worker_whatever_the_policy() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), **RESETS)
        data = bytearray((await saved_of(bench, "a"))[:-16])
        data[4] += 1
        await log.append(bench.changelog, 0, [NewRecord(b"a", bytes(data) + seal_of(bytes(data)))])
        with pytest.raises(LaterLayout, match=r"has layout 4, this version reads 2 and 3: a later version"):
            await bench.serve(until=never)
        data[4] += 100  # a number that was damaged under no seal is nobody's
        await log.append(bench.changelog, 0, [NewRecord(b"a", bytes(data) + bytes(16))])
        await bench.serve()
        assert await events(bench, "a") == ["reset", "started"]


async def test_records_that_were_answered_are_not_stepped_again_for_a_stream_whose_state_was_lost() -> None:
    """Another stream's state was never saved, so that the re-run begins before the damaged one's records."""
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2), event("b", 3), **RESETS)
        await damage(bench, "b")
        await log.append(bench.changelog, 0, [NewRecord(b"a", None), NewRecord(b"\0floor", b"0")])
        await bench.feed([event("b", 10), event("a", 10)])
        await bench.serve()
        assert await sums(bench, "b") == [2, 5, 10]
        assert await sums(bench, "a") == [1, 11]


async def test_streams_that_lie_dormant_count_against_the_most_that_may_live() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2), streams=StreamOptions(max_streams=2))
        await bench.feed([event("c", 3), event("a", 4)])
        await bench.serve()
        dead = await bench.records("deadletters")
        assert [record.key for record in dead] == [b"c"]
        assert await sums(bench, "a") == [1, 5]


async def test_a_coldest_stream_that_lies_dormant_is_ended_like_any_other() -> None:
    options = StreamOptions(max_streams=2, at_max="end_coldest")
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1, time_ms=9), event("b", 2, time_ms=5), streams=options)
        await bench.feed([event("c", 3, time_ms=20)])
        await bench.serve()
        ended = [m.id for m in await bench.said() if isinstance(m.body, StreamEvent) and m.body.event == "ended"]
        assert ended == ["input/0/1/ended/0"]


async def test_a_stream_that_lies_dormant_is_ended_when_it_was_idle_for_too_long() -> None:
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), event("b", 2), streams=StreamOptions(end_early=False))
        bench.options = replace(bench.options, streams=StreamOptions(end_early=True, ttl_s=1.0))
        async with bench.running() as worker:
            await bench.until(worker, lambda: worker.status().streams == 0 and worker.status().partitions == 1)
        assert await events(bench, "a") == await events(bench, "b") == ["ended", "started"]


async def test_a_state_of_other_numerics_is_refused_where_results_are_to_be_deterministic() -> None:
    engine = EngineOptions(device="cpu", max_batch=4, slots=8, deterministic=True)
    async with MemoryLog() as log:
        bench = await left(log, event("a", 1), engine=engine)
        bench.options = options_of(engine=replace(engine, max_batch=2))
        with pytest.raises(StateMismatch, match="last bits"):
            await bench.serve()
        bench.options = options_of(engine=replace(engine, max_batch=2, deterministic=False))
        await bench.feed([event("a", 2)])
        await bench.serve()
        assert await sums(bench, "a") == [1, 3]


# ---------------------------------------------------------------------- the table


def version(options: PipelineOptions, name: str = "model") -> Version:
    model = RunningSum()
    return version_of(options, "test", 1_000_000, wrap(model, name=name), PredictionTask(model.signature.outputs))


def a_table(policy: str = "refuse") -> tuple[StreamTable, Waking, Version]:
    options = options_of(on_state_mismatch=policy)
    versions = Versions(version(options))
    table = StreamTable(versions)
    return table, Waking(table, versions, options), versions.current


def record_of(data: bytes, key: str, offset: int = 0) -> Record:
    return Record("changelog", 0, offset, 0, key.encode(), data, ())


async def states(**last_ms: int) -> dict[str, bytes]:
    """What is saved of streams, by name, with the time of their last record."""
    async with MemoryLog() as log:
        bench = await left(log, *(event(name, 1, time_ms=time_ms) for name, time_ms in last_ms.items()))
        return {name: await saved_of(bench, name) for name in last_ms}


async def test_dormant_streams_are_counted_until_they_are_awake_or_dropped() -> None:
    table, waking, _ = a_table()
    saved = await states(a=1, b=2, c=3)
    for name, data in saved.items():
        assert table.lay_down(StreamKey(0, name), record_of(data, name), Known()) is None
    size = sum(map(len, saved.values()))
    assert (len(table), len(table.streams), table.host_bytes) == (3, 0, size)
    waking.wake([StreamKey(0, "b")], CallResult())
    assert (len(table), list(table.streams)) == (3, [StreamKey(0, "b")])
    assert table.host_bytes == size - len(saved["b"]) + 4
    assert table.position(StreamKey(0, "b")) == 2
    table.drop_partitions(frozenset({0}))
    assert (len(table), table.host_bytes) == (0, 0)


async def test_the_coldest_stream_is_found_among_those_awake_and_those_dormant() -> None:
    table, waking, _ = a_table()
    for name, data in (await states(a=30, b=10, c=20)).items():
        table.lay_down(StreamKey(0, name), record_of(data, name), Known())
    assert table.coldest([]) == StreamKey(0, "b")
    waking.wake([StreamKey(0, "b")], CallResult())
    assert table.coldest([]) == StreamKey(0, "b")
    assert table.coldest([StreamKey(0, "b")]) == StreamKey(0, "c")


async def test_the_background_takes_everything_in_in_small_parts_and_then_has_nothing_left() -> None:
    table, waking, _ = a_table()
    for name, data in (await states(**{f"s{n}": n for n in range(5)})).items():
        table.lay_down(StreamKey(0, name), record_of(data, name), Known())
    parts = []
    while waking.wake_some(0, 2) is not None:
        parts.append(len(table.streams))
    assert (parts, len(table.dormant)) == ([2, 4, 5], 0)
    assert waking.wake_some(1, 2) is None


async def test_a_later_record_of_a_stream_takes_the_place_of_an_earlier_one() -> None:
    table, *_ = a_table()
    data = (await states(a=1))["a"]
    for offset in range(2):
        table.lay_down(StreamKey(0, "a"), record_of(data, "a", offset), Known())
    assert (len(table), table.host_bytes) == (1, len(data))


async def test_a_state_under_another_streams_key_is_refused_when_it_is_looked_into() -> None:
    table, waking, _ = a_table()
    table.lay_down(StreamKey(0, "b"), record_of((await states(a=1))["a"], "b"), Known())
    with pytest.raises(StateMismatch, match="saved state of 'a' in partition 0 lies under the key of 'b'"):
        waking.wake([StreamKey(0, "b")], CallResult())


async def test_headers_that_were_accepted_once_do_not_let_another_writers_states_pass() -> None:
    table, _, mine = a_table()
    fitting = Known()
    stream = snapshot.load((await states(a=1))["a"], mine.model, mine.state_layout)[0]
    own, other = (snapshot.dump(stream, None, None, None, model) for model in (mine.model, "other-1@abc"))
    table.lay_down(StreamKey(0, "a"), record_of(own, "a"), fitting)
    assert fitting.has(own)
    assert not fitting.has(other)
    with pytest.raises(StateMismatch, match="other-1@abc"):
        table.lay_down(StreamKey(0, "b"), record_of(other, "b"), fitting)
    mark = snapshot.dump_mark(Mark(7), "other-1@abc")
    assert table.lay_down(StreamKey(0, "c"), record_of(mark, "c"), fitting) == Mark(7)


async def test_what_is_said_of_a_lost_state_goes_out_in_one_commit_with_the_mark_that_takes_its_place() -> None:
    table, waking, _ = a_table("reset")
    data = (await states(a=1))["a"]
    waking._versions.live_from[0] = 5
    table.lay_down(StreamKey(0, "a"), record_of(data[:-1] + b"?", "a"), Known())
    result = CallResult()
    waking.wake([StreamKey(0, "a")], result)
    (said,) = result[0].outputs
    assert isinstance(said, Pending)
    assert (said.offset, said.decision, said.role) == (4, True, "streams")
    assert json.loads(said.record.value or b"")["event"] == "reset"
    assert [(copy.position, copy.live) for copy in result[0].copies] == [(5, False)]
    assert (len(table), table.position(StreamKey(0, "a"))) == (0, 5)
