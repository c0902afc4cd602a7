"""The pump: partitions by key, nothing fed twice, nothing lost unmarked, patience with a log that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.audio import audio_record, samples_in
from streamer.codecs.headers import CONTENT_TYPE, EOS, GAP, parse_gap, parse_headers
from streamer.errors import InputError, LogUnavailable, RecordTooLarge, TopicMismatch, TopicMissing
from streamer.feeds.audio_file import AudioFileFeed
from streamer.feeds.buffer import LiveBuffer
from streamer.feeds.pump import pump
from streamer.feeds.table import TableFeed
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.log.partitioner import partition_of
from streamer.records import NewRecord, Record, TopicPartition

L = TypeVar("L", bound=MemoryLog)

RATE_HZ = 16_000
CHUNK = 160
PARTITIONS = 3


class ListFeed:
    """Gives prepared batches; as a live source it does not wait for the log."""

    name = "list"

    def __init__(self, batches: Sequence[Sequence[NewRecord]], *, live: bool, error: Exception | None = None) -> None:
        self._batches = batches
        self._error = error
        self.live = live
        self.given = asyncio.Event()

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        for batch in self._batches:
            yield batch
        if self._error is not None:
            raise self._error
        self.given.set()


class EndlessFeed:
    """A live source that gives one record and then listens for ever."""

    name = "endless"
    live = True

    def __init__(self) -> None:
        self.listening = asyncio.Event()

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        yield [audio(0)]
        self.listening.set()
        await asyncio.Event().wait()


class HeldLog(MemoryLog):
    """A log whose appends to a topic wait until they are let through."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self._held = held
        self.open = asyncio.Event()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        if topic == self._held:
            await self.open.wait()
        return await super().append(topic, partition, records)


class AbsentLog(MemoryLog):
    """A log that is away for its next `failures` appends."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("the broker is away")
        return await super().append(topic, partition, records)


class StepClock:
    """A clock that only moves when somebody sleeps; it can set an event when its time has come."""

    def __init__(self, stop_at_s: float = float("inf"), stop: asyncio.Event | None = None) -> None:
        self.time_s = 0.0
        self._stop_at_s = stop_at_s
        self._stop = stop

    def now_s(self) -> float:
        return self.time_s

    def unix_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        if self._stop is not None and self.time_s >= self._stop_at_s:
            self._stop.set()


def audio(seq: int, stream: str = "mic", samples: int = CHUNK, *, eos: bool = False) -> NewRecord:
    pcm = np.full(samples, seq, np.int16)
    index = seq * CHUNK
    time_ms = index * 1000 // RATE_HZ
    return audio_record(stream, pcm, RATE_HZ, session="s", seq=seq, sample_index=index, time_ms=time_ms, eos=eos)


async def with_topic(log: L, name: str = "audio") -> L:
    await log.create_topics([TopicSpec(name, partitions=PARTITIONS)])
    return log


async def read_all(log: MemoryLog, topic: str = "audio") -> list[Record]:
    names = [TopicPartition(topic, p) for p in range((await log.topics())[topic].partitions)]
    ends = await log.offsets(names)
    records: list[Record] = []
    async with log.reader(dict.fromkeys(names, 0)) as reader:
        while any(reader.position(name) < ends[name].end for name in names):
            for batch in await reader.read(timeout_s=1.0):
                records.extend(batch.records)
    return records


def samples(record: Record | NewRecord) -> int:
    return samples_in(record.value or b"", dict(record.headers)[CONTENT_TYPE])


def gap(record: Record | NewRecord) -> int:
    return sum(parse_gap(value)[0] for name, value in record.headers if name == GAP)


def wav(path: Path, seconds: float) -> Path:
    soundfile.write(path, np.arange(int(seconds * RATE_HZ)).astype(np.int16), RATE_HZ)
    return path


async def test_records_go_to_the_partition_of_their_key_in_their_order() -> None:
    log = await with_topic(MemoryLog())
    batches = [[audio(seq, stream) for stream in ("a", "b", "c", "d", "e")] for seq in range(20)]
    report = await pump(ListFeed(batches, live=False), log, "audio")
    assert report.records == 100
    found = await read_all(log)
    assert all(record.partition == partition_of(record.key or b"", PARTITIONS) for record in found)
    for stream in (b"a", b"b", b"c", b"d", b"e"):
        assert [parse_headers(r.headers).seq for r in found if r.key == stream] == list(range(20))


async def test_a_topic_that_is_not_there_says_so() -> None:
    with pytest.raises(TopicMissing, match="no topic audio"):
        await pump(ListFeed([], live=False), MemoryLog(), "audio")


async def test_a_file_that_was_fed_is_skipped_and_fed_again_only_when_asked(tmp_path: Path) -> None:
    log = await with_topic(MemoryLog())
    path = wav(tmp_path / "a.wav", 1.0)
    first = await pump(AudioFileFeed([path], speed=0), log, "audio")
    feed = AudioFileFeed([path], speed=0)
    second = await pump(feed, log, "audio")
    assert (first.records, second.records) == (10, 0)
    assert [file.stream for file in feed.skipped] == ["a.wav"]
    third = await pump(AudioFileFeed([path], speed=0, again=True), log, "audio")
    assert third.records == 10
    assert len({parse_headers(r.headers).session for r in await read_all(log)}) == 2


async def test_a_file_that_was_fed_into_one_topic_is_new_to_another(tmp_path: Path) -> None:
    log = await with_topic(await with_topic(MemoryLog()), "other")
    path = wav(tmp_path / "a.wav", 0.5)
    await pump(AudioFileFeed([path], speed=0), log, "audio")
    assert (await pump(AudioFileFeed([path], speed=0), log, "other")).records == 5


async def test_a_file_that_changed_is_a_new_session(tmp_path: Path) -> None:
    log = await with_topic(MemoryLog())
    await pump(AudioFileFeed([wav(tmp_path / "a.wav", 0.5)], speed=0), log, "audio")
    assert (await pump(AudioFileFeed([wav(tmp_path / "a.wav", 0.6)], speed=0), log, "audio")).records == 6


async def test_a_stopped_file_continues_where_it_stopped_with_the_same_times(tmp_path: Path) -> None:
    log = await with_topic(MemoryLog())
    path = wav(tmp_path / "a.wav", 10.0)
    stop = asyncio.Event()
    clock = StepClock(stop_at_s=3.05, stop=stop)
    first = await pump(AudioFileFeed([path], start_ms=1000, clock=clock), log, "audio", stop=stop)
    assert 20 <= first.records <= 40
    assert first.ended_streams == 0
    await pump(AudioFileFeed([path], speed=0, start_ms=99_000), log, "audio")
    found = await read_all(log)
    assert [parse_headers(r.headers).seq for r in found] == list(range(100))
    assert [r.timestamp_ms for r in found] == [1000 + 100 * seq for seq in range(100)]
    fed = np.frombuffer(b"".join(r.value or b"" for r in found), "<i2")
    assert np.array_equal(fed, soundfile.read(path, dtype="int16")[0])


async def test_a_file_cut_off_by_an_error_continues_where_it_stopped(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", 20.0)
    log = await with_topic(AbsentLog(0))
    feed = AudioFileFeed([path], speed=0, start_ms=1000)
    pumping = asyncio.create_task(pump(feed, log, "audio", patience_s=0))
    async with log.reader({TopicPartition("audio", partition_of(b"a.wav", PARTITIONS)): 0}) as reader:
        assert await reader.read(timeout_s=10.0)
    log.failures = 1
    with pytest.raises(LogUnavailable):
        await pumping
    interrupted = len(await read_all(log))
    report = await pump(AudioFileFeed([path], speed=0, start_ms=5000), log, "audio")
    found = await read_all(log)
    assert 0 < interrupted < 200
    assert report.records == 200 - interrupted
    assert [parse_headers(r.headers).seq for r in found] == list(range(200))
    assert [r.timestamp_ms for r in found] == [1000 + 100 * seq for seq in range(200)]


async def test_a_table_that_was_fed_is_skipped_device_by_device(tmp_path: Path) -> None:
    log = await with_topic(MemoryLog(), "sensors")
    path = tmp_path / "t.csv"
    path.write_text("device,value\n" + "".join(f"d{i % 3},{i}\n" for i in range(300)))
    first = await pump(TableFeed(path, device="device"), log, "sensors")
    second = await pump(TableFeed(path, device="device"), log, "sensors")
    assert (first.records, first.ended_streams, second.records) == (303, 3, 0)


async def test_the_topic_of_what_has_been_fed_must_be_compacted(tmp_path: Path) -> None:
    log = await with_topic(await with_topic(MemoryLog()), "feeds")
    with pytest.raises(TopicMismatch, match="compact"):
        await pump(AudioFileFeed([wav(tmp_path / "a.wav", 0.5)], speed=0), log, "audio")


async def test_files_wait_for_a_slow_log_and_lose_nothing(tmp_path: Path) -> None:
    log = await with_topic(HeldLog("audio"))
    pumping = asyncio.create_task(
        pump(AudioFileFeed([wav(tmp_path / "a.wav", 3.0)], speed=0), log, "audio", buffer_s=0.1)
    )
    for _ in range(20):
        await asyncio.sleep(0)
    assert not pumping.done()
    log.open.set()
    report = await pumping
    assert (report.records, report.dropped_records) == (30, 0)


async def test_a_live_source_drops_its_oldest_and_marks_the_gap_when_the_log_is_slow() -> None:
    log = await with_topic(HeldLog("audio"))
    feed = ListFeed([[audio(seq)] for seq in range(100)], live=True)
    pumping = asyncio.create_task(pump(feed, log, "audio", buffer_s=0.2))
    await feed.given.wait()
    log.open.set()
    report = await pumping
    found = await read_all(log)
    assert report.dropped_records > 0
    assert report.dropped_samples == sum(gap(r) for r in found) == 100 * CHUNK - sum(samples(r) for r in found)
    kept = [r for r in found if samples(r)]
    assert parse_headers(kept[-1].headers).seq == 99
    for before, after in pairwise(kept):
        index, nextone = parse_headers(before.headers).sample_index, parse_headers(after.headers).sample_index
        assert index is not None
        assert nextone == index + CHUNK + gap(after)


async def test_a_live_stream_that_is_stopped_gets_its_end() -> None:
    log = await with_topic(MemoryLog())
    feed = EndlessFeed()
    stop = asyncio.Event()
    pumping = asyncio.create_task(pump(feed, log, "audio", stop=stop))
    await feed.listening.wait()
    stop.set()
    report = await pumping
    record, end = await read_all(log)
    assert (report.records, report.ended_streams) == (2, 1)
    place = parse_headers(end.headers)
    assert (end.value, place.eos, place.seq, place.sample_index) == (b"", True, 1, CHUNK)
    assert not parse_headers(record.headers).eos


async def test_a_feeds_own_error_comes_out_after_what_it_gave_was_written() -> None:
    log = await with_topic(MemoryLog())
    for live in (True, False):
        with pytest.raises(InputError, match="broken"):
            await pump(ListFeed([[audio(0)]], live=live, error=InputError("broken")), log, "audio")
    assert [samples(r) for r in await read_all(log) if samples(r)] == [CHUNK, CHUNK]


async def test_a_log_that_is_away_for_a_while_is_waited_for() -> None:
    log = await with_topic(AbsentLog(5))
    report = await pump(ListFeed([[audio(0)]], live=False), log, "audio", patience_s=30, clock=StepClock())
    assert report.records == 1


async def test_patience_with_a_log_that_stays_away_ends() -> None:
    log = await with_topic(AbsentLog(10_000))
    clock = StepClock()
    with pytest.raises(LogUnavailable):
        await pump(ListFeed([[audio(0)]], live=False), log, "audio", patience_s=30, clock=clock)
    assert 10 < clock.time_s <= 30


async def test_a_record_too_large_for_the_topic_ends_the_feed_with_its_name() -> None:
    log = MemoryLog()
    await log.create_topics([TopicSpec("audio", partitions=1, max_record_bytes=100)])
    with pytest.raises(RecordTooLarge):
        await pump(ListFeed([[audio(0)]], live=False), log, "audio")


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["a", "b"]), st.integers(1, 4)),
        st.tuples(st.just("end"), st.sampled_from(["a", "b"]), st.integers(0, 4)),
        st.tuples(st.just("take"), st.just(""), st.integers(1, 5)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(operations=operations, buffer_ms=st.sampled_from([0, 15, 50]))
def test_samples_captured_are_samples_taken_plus_samples_in_marked_gaps(
    operations: list[tuple[str, str, int]], buffer_ms: int
) -> None:
    buffer = LiveBuffer(buffer_ms / 1000)
    taken: list[NewRecord] = []
    captured = {"a": 0, "b": 0}
    ended = {"a": 0, "b": 0}
    tick = 0
    for what, stream, size in operations:
        if what == "take":
            taken += buffer.take(size)
            continue
        record = audio(tick, stream, size * CHUNK, eos=what == "end")
        captured[stream] += size * CHUNK
        ended[stream] += what == "end"
        tick += 1
        buffer.put([record])
    taken += buffer.rest()
    for stream, total in captured.items():
        out = [record for record in taken if record.key == stream.encode()]
        assert total == sum(samples(record) + gap(record) for record in out)
        assert sum(EOS in dict(record.headers) for record in out) >= ended[stream]
    assert buffer.dropped_samples == sum(map(gap, taken))
    assert len(buffer) == 0


@settings(deadline=None)
@given(st.integers(1, 50))
def test_a_source_without_times_is_bounded_by_count(most: int) -> None:
    buffer = LiveBuffer(1.0, max_records=most)
    buffer.put(NewRecord(b"d", b"{}", ()) for _ in range(100))
    taken = buffer.rest()
    assert len(taken) == most
    assert gap(taken[0]) == 100 - most
