"""Streams run again: from where they began or from a kept snapshot, beside the live pipeline or in its place."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace

import pytest
from torch import Tensor

from models.bundle import wrap
from models.contract import Outputs, State
from streamer.codecs.messages import decode
from streamer.errors import InputError, OffsetGone, StateMismatch, TopicMissing
from streamer.log.base import TopicSpec
from streamer.log.kafka import KafkaLog
from streamer.log.kafka_connection import Delivery, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.observe.comparison import Changed
from streamer.options import CommitOptions
from streamer.records import TopicPartition
from streamer.rewind.again import compared, publish
from streamer.rewind.plan import Place, plans_of
from streamer.testing.clocks import FakeWallClock
from streamer.testing.models import RunningSum
from streamer.testing.serving import INPUT, QUICK, Serving, event
from tests.unit.rewinding import (
    KEEPING,
    MIXED,
    ONE_STREAM,
    answered,
    feed,
    plan_of,
    rewound,
    serving,
    sums,
    went_on,
)

INPUT_0 = TopicPartition(INPUT, 0)


async def test_a_stream_is_run_again_from_where_it_began() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    plan = await plan_of(bench, "a")
    assert (plan.begin, plan.snapshot, plan.target, plan.end) == (0, None, 0, 4)
    report = await compared(bench.log, rewound(bench), plan, "test")
    assert report.differences == []
    assert sums([*report.b.messages.values()]) == [(0, "a", 1), (2, "a", 3), (3, "a", 7)]


async def test_a_stream_began_at_its_first_record_after_its_last_end() -> None:
    bench = await answered(serving(MemoryLog()), [("a", 1), ("a", 0), ("b", 1), ("a", 2), ("a", 3)])
    plan = await plan_of(bench, "a")
    assert (plan.begin, plan.target) == (3, 3)
    assert (await compared(bench.log, rewound(bench), plan, "test")).equal


async def test_before_the_offset_that_was_asked_for_a_stream_is_silent_but_its_state_grows() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    plan = await plan_of(bench, "a", to=3)
    assert (plan.begin, plan.target) == (0, 3)
    report = await compared(bench.log, rewound(bench), plan, "test")
    assert sums([*report.b.messages.values()]) == [(3, "a", 7)]
    assert report.equal


class Doubled(RunningSum):
    """Another version: it says twice the sum."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return {**outputs, "y": 2 * outputs["y"]}, after


async def test_what_another_version_would_have_said_is_told_by_how_much() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    other = replace(rewound(bench), bundle=wrap(Doubled(), name="model", version="2"))
    report = await compared(bench.log, other, await plan_of(bench, "a"), "test")
    changes = [difference for difference in report.differences if isinstance(difference, Changed)]
    assert len(changes) == len(report.differences) == 3
    assert [change.fields[0].by for change in changes] == [1, 3, 7]


async def test_a_run_again_speaks_in_topics_and_in_a_name_of_its_own() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    before = await bench.said()
    (done,) = await publish(bench.log, rewound(bench), [await plan_of(bench, "a", to=2)], "again")
    assert (done.messages, done.topics) == (2, ("rewind-again.predictions",))
    said = [decode(record) for record in await bench.records("rewind-again.predictions")]
    assert [(m.source, m.id) for m in said] == [
        ("test/test.sums.rewind-again/sums/rewind-again", f"input/0/{offset}/prediction/0") for offset in (2, 3)
    ]
    assert await bench.said() == before


async def test_kept_snapshots_lie_beside_the_newer_ones_and_are_none_of_ended_streams() -> None:
    bench = serving(MemoryLog(), commit=KEEPING)
    await answered(bench, [("a", 1), ("b", 1)])
    await answered(bench, [("a", 2), ("b", 0)])
    kept = await bench.records("test.sums.live.input.snapshots")
    assert Counter(record.key for record in kept) == {b"a": 2, b"b": 1}
    info = (await bench.log.topics())["test.sums.live.input.snapshots"]
    assert (info.compact, info.retention_ms) == (False, 3_600_000)


async def test_without_the_option_no_snapshot_is_kept() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    assert "test.sums.live.input.snapshots" not in await bench.log.topics()


async def cut(*, commit: CommitOptions = KEEPING) -> Serving:
    """A stream that was answered in three parts, the records of the first no longer kept."""
    clock = FakeWallClock()
    bench = serving(MemoryLog(now_ms=clock), commit=commit)
    await bench.log.create_topics([TopicSpec(INPUT, 1, retention_ms=30 * 60_000)])
    await answered(bench, [("a", 1), ("b", 1)])
    for part in ([("a", 2), ("b", 2)], [("a", 4)]):
        clock.advance_s(20 * 60)
        await answered(bench, part)
    assert (await bench.log.offsets([INPUT_0]))[INPUT_0] == (2, 5)
    return bench


async def test_where_the_beginning_is_no_longer_kept_the_nearest_snapshot_takes_its_place() -> None:
    bench = await cut()
    plan = await plan_of(bench, "a", to=4)
    assert plan.snapshot is not None
    assert (plan.begin, plan.target) == (3, 4)
    report = await compared(bench.log, rewound(bench), plan, "test")
    assert sums([*report.b.messages.values()]) == [(4, "a", 7)]
    assert report.equal


async def test_how_far_back_a_stream_can_be_run_is_said_where_it_cannot() -> None:
    bench = await cut()
    with pytest.raises(OffsetGone, match=r"kept from offset 2, not from 1"):
        await plan_of(bench, "a", to=1)
    with pytest.raises(OffsetGone, match="beginning of 'a' is not there: its kept snapshots reach back to offset 3"):
        await plan_of(bench, "a")
    with pytest.raises(OffsetGone, match="nor a snapshot from before offset 2: its kept snapshots reach back to"):
        await plan_of(bench, "a", to=2)
    with pytest.raises(OffsetGone, match="no snapshot of it is kept either"):
        await plan_of(await cut(commit=QUICK), "a", to=4)


async def test_a_beginning_behind_the_cut_is_one_and_the_first_kept_record_is_not() -> None:
    bench = await cut()
    await answered(bench, [("a", 0), ("a", 5), ("c", 1)])
    assert (await plan_of(bench, "a")).begin == 6
    assert (await plan_of(bench, "c")).begin == 7


async def test_a_snapshot_of_another_model_is_not_gone_on_with() -> None:
    bench = await cut()
    with pytest.raises(StateMismatch, match=r"are of model-1@.*, this is model-2@"):
        await plans_of(bench.log, rewound(bench, version="2"), ["a"], Place(offset=4))


async def test_a_place_is_also_told_by_time_and_may_be_bounded() -> None:
    bench = serving(MemoryLog())
    await bench.create_topics()
    await bench.feed([event("a", n, time_ms=1000 * n) for n in range(5)])
    await answered(bench)
    (plan,) = await plans_of(bench.log, rewound(bench), ["a"], Place(time_ms=1500), Place(time_ms=3000))
    assert (plan.target, plan.end) == (2, 3)
    with pytest.raises(InputError, match="lies behind the end of the range"):
        await plans_of(bench.log, rewound(bench), ["a"], Place(offset=3), Place(offset=2))
    with pytest.raises(InputError, match="99 is not there yet"):
        await plan_of(bench, "a", to=99)


async def test_a_stream_must_be_known_and_in_one_place() -> None:
    bench = serving(MemoryLog(), partitions=2)
    with pytest.raises(TopicMissing, match="no topic 'input'"):
        await plan_of(bench, "a")
    await answered(bench, [("a", 1)])
    await feed(bench, [("a", 1)], partition=1)
    with pytest.raises(InputError, match="no record of stream 'z' is kept in input/0, input/1"):
        await plan_of(bench, "z")
    with pytest.raises(InputError, match="stream 'a' is in input/0, input/1: say which with --partition"):
        await plan_of(bench, "a")
    with pytest.raises(InputError, match="there is no number 7"):
        await plan_of(bench, "a", partition=7)
    assert (await plan_of(bench, "a", partition=1)).partition == TopicPartition(INPUT, 1)


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_on_kafka_streams_are_run_again_and_set_back(kafka: str, delivery: Delivery) -> None:
    prefix = f"rewind-{uuid.uuid4().hex[:8]}."
    async with KafkaLog(KafkaOptions(bootstrap_servers=kafka, delivery=delivery)) as log:
        bench = serving(log, prefix=prefix, commit=KEEPING)
        await answered(bench, MIXED)
        report = await compared(log, rewound(bench), await plan_of(bench, "a", 4), "test")
        assert report.differences == []
        (done,) = await publish(log, rewound(bench), [await plan_of(bench, "a")], prefix[7:-1])
        assert done.messages == 4
        assert await went_on(bench, "a", to=4) == [(4, "a", 3), (6, "a", 7), (7, "a", 15), (8, "b", 11)]
