"""Promise 6: what befalls streams, each told by an event, each record answered, refused or passed over."""

from __future__ import annotations

import time

from streamer.codecs.messages import Alert, DeadLetter, Envelope, Prediction, StreamEvent
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, InputOptions, StreamOptions
from streamer.records import NewRecord, TopicPartition
from streamer.testing.models import RunningSum
from streamer.testing.serving import INPUT, Serving, event, options_of

IN_ORDER = EngineOptions(max_batch=1, slots=2, deterministic=True, device="cpu")


async def told(records: list[NewRecord], streams: StreamOptions | None = None) -> list[Envelope]:
    """What a worker says of these records, stepped one at a time in order of their streams."""
    held = InputOptions(topic=INPUT, partitions=1, missing="hold")  # a sum does not know missing values
    options = options_of(input=held, streams=streams or StreamOptions(), engine=IN_ORDER)
    bench = Serving(MemoryLog(), RunningSum, options)
    await bench.create_topics()
    await bench.feed(records)
    await bench.serve()
    said = await bench.said()
    assert len({message.id for message in said}) == len(said)
    return said


def sums(said: list[Envelope]) -> dict[int, float]:
    """Offset to the sum that answered it."""
    return {
        int(message.id.split("/")[2]): message.body.outputs["y"][0]
        for message in said
        if isinstance(message.body, Prediction) and message.body.outputs
    }


def events(said: list[Envelope]) -> list[tuple[int, str]]:
    """(offset, event) in the order they were said."""
    return [(int(m.id.split("/")[2]), m.body.event) for m in said if isinstance(m.body, StreamEvent)]


def refused(said: list[Envelope]) -> dict[int, str]:
    """Offset to the reason of its dead letter."""
    return {m.body.offset: m.body.reason for m in said if isinstance(m.body, DeadLetter)}


async def test_ids_are_topic_partition_offset_kind_and_number() -> None:
    said = await told([event("a", 1, x_eos="1")])
    assert sorted(m.id for m in said) == ["input/0/0/ended/0", "input/0/0/prediction/0", "input/0/0/started/0"]
    assert {m.source for m in said} == {"test/test.sums.live/sums/live"}
    assert {m.subject for m in said} == {"a"}


async def test_a_short_gap_is_filled_and_told() -> None:
    said = await told([event("a", 1, x_seq="0"), event("a", 2, x_seq="3")], StreamOptions(zero_fill_limit_records=2))
    assert events(said) == [(0, "started"), (1, "gap")]
    assert [m.body.samples for m in said if isinstance(m.body, StreamEvent) and m.body.event == "gap"] == [2]
    assert sums(said) == {0: 1.0, 1: 1.0 + 2 * 1.0 + 2.0}  # the last value is held over the gap


async def test_a_long_gap_resets_the_stream() -> None:
    said = await told([event("a", 1, x_seq="0"), event("a", 2, x_seq="9")], StreamOptions(zero_fill_limit_records=2))
    assert events(said) == [(0, "started"), (1, "gap"), (1, "reset")]
    assert sums(said) == {0: 1.0, 1: 2.0}


async def test_a_gap_may_be_refused_instead() -> None:
    said = await told([event("a", 1, x_seq="0"), event("a", 2, x_seq="2")], StreamOptions(gap="dead_letter"))
    assert sums(said) == {0: 1.0}
    assert refused(said) == {1: "1 records are missing before this record"}


async def test_a_duplicate_is_passed_over_in_silence() -> None:
    said = await told([event("a", 1, x_seq="0"), event("a", 1, x_seq="0"), event("a", 2, x_seq="1")])
    assert sums(said) == {0: 1.0, 2: 3.0}
    assert refused(said) == {}


async def test_a_late_record_goes_to_the_dead_letters_or_is_accepted() -> None:
    records = [event("a", 1, time_ms=10), event("a", 2, time_ms=5)]
    assert list(refused(await told(records))) == [1]
    assert sums(await told(records, StreamOptions(late="accept"))) == {0: 1.0, 1: 3.0}


async def test_a_record_that_fills_a_hole_is_late_not_a_duplicate() -> None:
    said = await told([event("a", 1, x_seq="0"), event("a", 2, x_seq="2"), event("a", 4, x_seq="1")])
    assert list(refused(said)) == [2]


async def test_a_new_session_ends_the_old_stream_and_a_replaced_one_is_refused() -> None:
    said = await told([event("a", 1, x_session="one"), event("a", 2, x_session="two"), event("a", 4, x_session="one")])
    assert events(said) == [(0, "started"), (0, "ended"), (1, "started")]
    assert sums(said) == {0: 1.0, 1: 2.0}
    assert list(refused(said)) == [2]


async def test_a_stream_ends_when_its_own_next_record_is_more_than_its_ttl_later() -> None:
    records = [event("a", 1), event("b", 1, time_ms=99_000), event("a", 2, time_ms=2_000)]
    said = await told(records, StreamOptions(ttl_s=1.0))
    assert sorted(events(said)) == [(0, "ended"), (0, "started"), (1, "started"), (2, "started")]
    assert sums(said) == {0: 1.0, 1: 1.0, 2: 2.0}


async def test_a_date_in_2099_harms_no_other_stream() -> None:
    far = 4_070_908_800_000
    records = [event("a", 1), event("clock", 1, time_ms=far), event("a", 2, time_ms=1)]
    said = await told(records, StreamOptions(ttl_s=1.0))
    assert sums(said) == {0: 1.0, 1: 1.0, 2: 3.0}


async def test_an_idle_stream_is_ended_early_only_when_everything_is_read_and_the_option_is_on() -> None:
    options = options_of(streams=StreamOptions(ttl_s=1.0, end_early=True), engine=IN_ORDER)
    bench = Serving(MemoryLog(), RunningSum, options)
    await bench.create_topics()
    await bench.feed([event("a", 1), event("a", 2, time_ms=10)])  # 1970: idle for half a century
    async with bench.running() as worker:
        await bench.until(worker, lambda: worker.status().records == 2 and worker.status().streams == 0)
    said = await bench.said()
    assert events(said) == [(0, "started"), (1, "ended")]
    assert sums(said) == {0: 1.0, 1: 3.0}  # what merely waited in the backlog was one stream


async def test_above_max_streams_a_new_stream_is_refused() -> None:
    said = await told([event("a", 1), event("b", 1), event("a", 2)], StreamOptions(max_streams=1))
    assert sums(said) == {0: 1.0, 2: 3.0}
    assert "max_streams" in refused(said)[1]


async def test_or_the_coldest_stream_is_ended_for_it() -> None:
    said = await told([event("a", 1), event("b", 1, time_ms=5)], StreamOptions(max_streams=1, at_max="end_coldest"))
    assert events(said) == [(0, "started"), (0, "ended"), (1, "started")]


async def test_spilled_states_stay_within_max_host_bytes() -> None:
    records = [event(f"s{n}", 1) for n in range(40)]
    said = await told(records, StreamOptions(max_host_bytes=8))  # two slots; the state of a sum takes four bytes
    assert sums(said).keys() | refused(said).keys() == set(range(40))
    assert sums(said).keys() & refused(said).keys() == set()
    assert all("max_host_bytes" in reason for reason in refused(said).values())
    assert refused(said)


async def test_skip_to_live_marks_what_it_passes_over() -> None:
    now_ms = int(time.time() * 1000)
    streams = StreamOptions(max_lag_s=3600.0, at_max_lag="skip_to_live")
    records = [event("a", 1, time_ms=now_ms), event("a", 2), event("a", 4, time_ms=now_ms), event("b", 1)]
    said = await told(records, streams)
    assert events(said) == [(0, "started"), (1, "gap"), (1, "reset")]
    assert sums(said) == {0: 1.0, 2: 4.0}


async def test_a_stream_whose_end_is_skipped_ends_all_the_same() -> None:
    now_ms = int(time.time() * 1000)
    streams = StreamOptions(max_lag_s=3600.0, at_max_lag="skip_to_live")
    said = await told([event("a", 1, time_ms=now_ms), event("a", 2, x_eos="1")], streams)
    assert events(said)[-1] == (1, "ended")


async def test_a_malformed_record_keeps_its_bytes_key_and_headers_and_harms_nobody() -> None:
    bench = Serving(MemoryLog(), RunningSum)
    await bench.create_topics()
    await bench.feed([event("a", 1), NewRecord(b"a", b"\xff\x00{", [("own", b"1")], 7), event("a", 2)])
    await bench.serve()
    (letter,) = await bench.records("deadletters")
    assert (letter.key, letter.value, letter.headers[0]) == (b"a", b"\xff\x00{", ("own", b"1"))
    said = await bench.said()
    assert sums(said) == {0: 1.0, 2: 3.0}
    assert refused(said)[1]


async def test_idle_streams_spill_and_come_back_bit_for_bit() -> None:
    records = [event(f"s{n}", n + turn * 100) for turn in range(3) for n in range(50)]
    said = await told(records)  # two slots for fifty streams
    added = (0, 100, 300)
    assert sums(said) == {turn * 50 + n: added[turn] + (turn + 1.0) * n for turn in range(3) for n in range(50)}


async def test_unread_input_near_its_retention_raises_an_alert() -> None:
    log = MemoryLog()
    hour_ms = 3_600_000
    await log.create_topics([TopicSpec(INPUT, 1, retention_ms=2 * hour_ms)])
    held = Serving(log, RunningSum)
    await held.create_topics()
    commit = CommitOptions(commit_interval_ms=3_600_000)  # nothing is committed while this test runs
    bench = Serving(log, RunningSum, options_of(commit=commit))
    await bench.feed([event("a", 1, time_ms=int(time.time() * 1000) - 2 * hour_ms + 1000)])
    alerts = log.partition(TopicPartition("alerts", 0))
    async with bench.running() as worker:
        await bench.until(worker, lambda: alerts.end > 0)
    (alert,) = [m.body for m in await bench.said() if isinstance(m.body, Alert)]
    assert (alert.id, alert.status) == ("retention/input/0", "firing")
