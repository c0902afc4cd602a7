"""What has been fed is not fed twice: files and tables are recognised, and go on where they stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamer.codecs.headers import parse_headers
from streamer.errors import LogUnavailable, TopicMismatch
from streamer.feeds.audio_file import AudioFileFeed
from streamer.feeds.pump import pump
from streamer.feeds.table import TableFeed
from streamer.log.memory import MemoryLog
from streamer.log.partitioner import partition_of
from streamer.records import TopicPartition
from streamer.testing.clocks import FakeClock
from tests.unit.pumping import (
    PARTITIONS,
    AbsentLog,
    read_all,
    wav,
    with_topic,
)


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
    clock = FakeClock(alarm=stop, alarm_at_s=3.05)
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
