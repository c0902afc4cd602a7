"""Recordings and replay: byte for byte, cut or whole, at any speed, partition by partition."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import InputError, TopicMissing
from streamer.feeds.recording import Origin, Recording, RecordingWriter
from streamer.feeds.replay import FileSource, ReplayFeed, ReplayReport, open_source, record, replay
from streamer.feeds.topic_source import WHOLE, Span, TopicSource
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.log.partitioner import partition_of
from streamer.records import NewRecord, Record, TopicPartition
from streamer.testing.clocks import FakeClock

ORIGIN = Origin("audio", 3, 5)


async def a_log(records: Mapping[int, Sequence[NewRecord]], topic: str = "audio", partitions: int = 3) -> MemoryLog:
    log = MemoryLog()
    await log.create_topics([TopicSpec(topic, partitions=partitions)])
    for partition, batch in records.items():
        await log.append(topic, partition, batch)
    return log


async def read_all(log: MemoryLog, topic: str) -> dict[int, list[Record]]:
    names = [TopicPartition(topic, p) for p in range((await log.topics())[topic].partitions)]
    found: dict[int, list[Record]] = {name.partition: [] for name in names}
    ends = await log.offsets(names)
    async with log.reader(dict.fromkeys(names, 0)) as reader:
        while any(reader.position(name) < ends[name].end for name in names):
            for batch in await reader.read(timeout_s=1.0):
                found[batch.partition.partition].extend(batch.records)
    return found


def new(key: str, time_ms: int, value: bytes = b"v", session: bytes = b"s") -> NewRecord:
    return NewRecord(key.encode(), value, (("x-session", session), ("x-seq", b"0")), time_ms)


TWO_PARTITIONS = {
    0: [new("a", 1000), new("a", 1200), new("a", 1400)],
    2: [new("b", 1100), new("b", 1300)],
}


async def test_a_recorded_topic_replays_into_the_same_partitions_with_keys_headers_and_times(tmp_path: Path) -> None:
    log = await a_log(TWO_PARTITIONS)
    report = await record(log, "audio", tmp_path / "a.rec")
    assert report.records == 5
    await log.create_topics([TopicSpec("again", partitions=3)])
    source, partitions = await open_source(tmp_path / "a.rec", None)
    done = await replay(ReplayFeed(source, speed=0), log, "again", partitions)
    assert done.records == 5
    first, second = await read_all(log, "audio"), await read_all(log, "again")
    strip = {p: [r[2:] for r in records] for p, records in first.items()}
    assert {p: [r[2:] for r in records] for p, records in second.items()} == strip


async def test_a_topic_replays_straight_into_another(tmp_path: Path) -> None:
    log = await a_log(TWO_PARTITIONS)
    await log.create_topics([TopicSpec("wider", partitions=5)])
    source, partitions = await open_source("audio", log)
    report = await replay(ReplayFeed(source, speed=0), log, "wider", partitions)
    found = [r for records in (await read_all(log, "wider")).values() for r in records]
    assert report.records == len(found) == 5
    assert all(r.partition == partition_of(r.key or b"", 5) for r in found)


async def test_partitions_are_merged_by_time(tmp_path: Path) -> None:
    log = await a_log(TWO_PARTITIONS)
    times = [r.timestamp_ms async for batch in TopicSource(log, "audio", WHOLE).batches() for r in batch]
    assert times == [1000, 1100, 1200, 1300, 1400]


@pytest.mark.parametrize(("speed", "waits_s"), [(1.0, 0.1), (10.0, 0.01)])
async def test_a_replay_keeps_the_pace_of_the_records_times(speed: float, waits_s: float) -> None:
    clock = FakeClock()
    log = await a_log(TWO_PARTITIONS)
    feed = ReplayFeed(TopicSource(log, "audio", WHOLE), speed=speed, clock=clock)
    assert [len(batch) async for batch in feed.batches()] == [1] * 5
    assert clock.slept_s == pytest.approx([waits_s] * 4)


@pytest.mark.parametrize(
    ("span", "times"),
    [
        (Span(begin_offset=1), [1200, 1300, 1400]),
        (Span(end_offset=1), [1000, 1100]),
        (Span(begin_offset=1, end_offset=2), [1200, 1300]),
        (Span(begin_ms=1100, end_ms=1300), [1100, 1200]),
        (Span(begin_offset=99), []),
        (Span(begin_ms=99_999), []),
    ],
)
async def test_a_span_is_a_range_of_offsets_or_times(span: Span, times: list[int]) -> None:
    log = await a_log(TWO_PARTITIONS)
    assert [r.timestamp_ms async for batch in TopicSource(log, "audio", span).batches() for r in batch] == times


async def test_a_new_session_can_be_made_of_a_replay() -> None:
    log = await a_log({0: [new("a", 0), NewRecord(b"b", b"v", (), 1)]})
    feed = ReplayFeed(TopicSource(log, "audio", WHOLE), speed=0, session_suffix="-2")
    records = [r async for batch in feed.batches() for r in batch]
    assert [dict(r.headers)["x-session"] for r in records] == [b"s-2", b"-2"]


class WatchedReport(ReplayReport):
    """A report that tells when it has come to a number of records."""

    def __init__(self, records: int) -> None:
        self.wanted = records
        self.reached = asyncio.Event()
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "records" and value == self.wanted:
            self.reached.set()


async def test_following_goes_on_with_what_comes_until_it_is_stopped(tmp_path: Path) -> None:
    log = await a_log({0: [new("a", 0)]})
    stop = asyncio.Event()
    report = WatchedReport(3)
    recording = asyncio.create_task(
        record(log, "audio", tmp_path / "a.rec", Span(follow=True), stop=stop, report=report)
    )
    await log.append("audio", 1, [new("b", 1)])
    await log.append("audio", 2, [new("c", 2)])
    await report.reached.wait()
    stop.set()
    await recording
    again = Recording(tmp_path / "a.rec")
    assert sorted(r.key or b"" for r in again.records()) == [b"a", b"b", b"c"]
    assert not again.truncated


async def test_a_topic_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    log = await a_log({})
    with pytest.raises(TopicMissing, match="no topic nothing; there are: audio"):
        await record(log, "nothing", tmp_path / "a.rec")
    assert not (tmp_path / "a.rec").exists()
    with pytest.raises(InputError, match="neither a recording nor a topic"):
        await open_source("nothing", log)


def stored(count: int) -> list[Record]:
    return [Record("audio", i % 3, i, i, b"k%d" % i, bytes([i]) * 20, (("h", b"1"),)) for i in range(count)]


def written(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path, ORIGIN) as writer:
        writer.write(records)
    return path


record_strategy = st.builds(
    Record,
    st.just("audio"),
    st.integers(0, 2),
    st.integers(0, 2**60),
    st.integers(-1, 2**50),
    st.none() | st.binary(max_size=10),
    st.none() | st.binary(max_size=50),
    st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=10)), max_size=3).map(tuple),
)


@settings(deadline=None)
@given(records=st.lists(record_strategy, max_size=10))
def test_any_record_comes_out_of_a_file_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    recording = Recording(written(tmp_path_factory.mktemp("r") / "a.rec", records))
    assert list(recording.records()) == records
    assert recording.origin == ORIGIN
    assert not recording.truncated


@settings(deadline=None)
@given(cut=st.integers(1, 500))
def test_a_file_cut_anywhere_gives_what_is_whole_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = written(tmp_path_factory.mktemp("r") / "a.rec", stored(10))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    try:
        recording = Recording(path)
    except InputError:
        assert len(path.read_bytes()) < 60
        return
    found = list(recording.records())
    assert found == stored(10)[: len(found)]
    assert recording.truncated


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.rec", stored(10))
    content = bytearray(path.read_bytes())
    content[content.index(bytes([5]) * 20)] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged at byte"):
        list(Recording(path).records())


def test_a_file_that_is_no_recording_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"RIFF....")
    with pytest.raises(InputError, match="no recording"):
        Recording(tmp_path / "a.rec")
    with pytest.raises(InputError, match="cannot read"):
        Recording(tmp_path / "none.rec")


def test_a_recording_overwrites_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.rec", stored(1))
    with pytest.raises(InputError, match="exists already"), RecordingWriter(path, ORIGIN):
        pass
    assert len(list(Recording(path).records())) == 1


def test_a_recording_is_whole_even_when_its_maker_failed(tmp_path: Path) -> None:
    def fail_after_two() -> None:
        with RecordingWriter(tmp_path / "a.rec", ORIGIN) as writer:
            writer.write(stored(2))
            raise ValueError("elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        fail_after_two()
    recording = Recording(tmp_path / "a.rec")
    assert len(list(recording.records())) == 2
    assert not recording.truncated


async def test_a_replayed_file_is_a_feed_with_a_pace(tmp_path: Path) -> None:
    clock = FakeClock()
    feed = ReplayFeed(FileSource(Recording(written(tmp_path / "a.rec", stored(3)))), speed=0.5, clock=clock)
    assert [len(batch) async for batch in feed.batches()] == [1, 1, 1]
    assert clock.slept_s == pytest.approx([0.002, 0.002])
    assert (feed.name, feed.live) == ("replay", False)
