"""The pump: partitions by key, nothing lost unmarked, patience with a log that is away."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from streamer.codecs.headers import parse_headers
from streamer.errors import InputError, LogUnavailable, RecordTooLarge, TopicMissing
from streamer.feeds.audio_file import AudioFileFeed
from streamer.feeds.pump import pump
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.log.partitioner import partition_of
from streamer.testing.clocks import FakeClock
from tests.unit.pumping import (
    CHUNK,
    PARTITIONS,
    AbsentLog,
    EndlessFeed,
    HeldLog,
    ListFeed,
    audio,
    gap,
    read_all,
    samples,
    wav,
    with_topic,
)


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
    report = await pump(ListFeed([[audio(0)]], live=False), log, "audio", patience_s=30, clock=FakeClock())
    assert report.records == 1


async def test_patience_with_a_log_that_stays_away_ends() -> None:
    log = await with_topic(AbsentLog(10_000))
    clock = FakeClock()
    with pytest.raises(LogUnavailable):
        await pump(ListFeed([[audio(0)]], live=False), log, "audio", patience_s=30, clock=clock)
    assert 10 < clock.time_s <= 30


async def test_a_record_too_large_for_the_topic_ends_the_feed_with_its_name() -> None:
    log = MemoryLog()
    await log.create_topics([TopicSpec("audio", partitions=1, max_record_bytes=100)])
    with pytest.raises(RecordTooLarge):
        await pump(ListFeed([[audio(0)]], live=False), log, "audio")
