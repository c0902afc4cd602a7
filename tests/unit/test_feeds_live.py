"""Standard input and the microphone's own parts, without a device: pipes, blocks, gaps."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.headers import GAP, parse_gap, parse_headers
from streamer.errors import InputError
from streamer.feeds.capture import Block, BlockBuffer, Cutter
from streamer.feeds.pump import PumpReport, pump
from streamer.feeds.stdin import StdinFeed
from streamer.feeds.tabular import TableShape
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, TopicPartition

RATE_HZ = 16_000
Pipe = Callable[[bytes], int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Makes pipes that hold the given bytes and are closed at their far end."""
    opened: list[int] = []

    def make(content: bytes) -> int:
        reader, writer = os.pipe()
        opened.append(reader)
        os.write(writer, content)
        os.close(writer)
        return reader

    yield make
    for descriptor in opened:
        os.close(descriptor)


async def all_of(batches: AsyncIterator[object]) -> list[NewRecord]:
    found: list[NewRecord] = []
    async for batch in batches:
        assert isinstance(batch, list)
        found.extend(batch)
    return found


def pcm(records: list[NewRecord]) -> list[int]:
    joined: list[int] = np.frombuffer(b"".join(r.value or b"" for r in records), "<i2").tolist()
    return joined


def numbers(count: int) -> bytes:
    return np.arange(count, dtype="<i2").tobytes()


def wav(samples: int, rate_hz: int, channels: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(
        file,
        np.arange(samples * channels, dtype=np.int16).reshape(-1, channels),
        rate_hz,
        format="WAV",
        subtype=subtype,
    )
    return file.getvalue()


async def test_raw_samples_from_a_pipe_are_records_of_100_ms_that_end_with_the_pipe(pipe: Pipe) -> None:
    records = await all_of(StdinFeed(fd=pipe(numbers(4000))).batches())
    places = [parse_headers(r.headers) for r in records]
    assert pcm(records) == list(range(4000))
    assert [(p.seq, p.sample_index, p.eos) for p in places] == [(0, 0, False), (1, 1600, False), (2, 3200, True)]
    assert len({p.session for p in places}) == 1
    assert {r.key for r in records} == {b"stdin"}


async def test_a_wav_header_in_a_pipe_brings_its_rate_and_channels(pipe: Pipe) -> None:
    content = bytearray(wav(1000, 8_000, 2))
    content[40:44] = struct.pack("<I", 0x7FFFFFFF)  # as arecord writes it, not knowing how long it will run
    records = await all_of(StdinFeed(fd=pipe(bytes(content))).batches())
    assert parse_headers(records[0].headers).content_type == b"audio/L16;rate=8000;channels=2"
    assert pcm(records) == list(range(2000))


@pytest.mark.parametrize("content", [wav(10, 8_000, 1, "FLOAT"), b"RIFF\0\0\0\0WAVE"])
async def test_a_wav_that_is_not_16_bit_pcm_says_so(pipe: Pipe, content: bytes) -> None:
    with pytest.raises(InputError, match="WAV on standard input"):
        await all_of(StdinFeed(fd=pipe(content)).batches())


async def test_json_lines_are_events_with_the_streams_they_name(pipe: Pipe) -> None:
    lines = [{"device": "a", "v": 1}, {"device": 7, "v": 2}, {"device": "a", "v": 3}, {"v": 4}]
    content = "\n\n".join(map(json.dumps, lines)).encode() + b"\nnot json"
    records = await all_of(StdinFeed(fd=pipe(content), device="device").batches())
    places = [(r.key, parse_headers(r.headers).seq, parse_headers(r.headers).eos) for r in records]
    assert places == [
        (b"a", 0, False),
        (b"7", 0, False),
        (b"a", 1, False),
        (b"stdin", 0, False),
        (b"stdin", 1, False),
        (b"a", 2, True),
        (b"7", 1, True),
        (b"stdin", 2, True),
    ]
    assert [json.loads(r.value or b"") for r in records[:4]] == lines


async def test_what_the_events_hold_is_found_out_from_the_first_without_losing_it(pipe: Pipe) -> None:
    content = b'\n{"time": 5, "device": "a", "v": 1.5, "note": "x"}\n{"time": 6, "v": 2}\n'
    feed = StdinFeed(fd=pipe(content), device="device")
    assert await feed.shape() == TableShape(("v",), "time", "device")
    assert len(await all_of(feed.batches())) == 4


@pytest.mark.parametrize(
    ("content", "why"), [(b"hello\n", "no JSON event: b'hello'"), (b"", "no JSON"), (b"[1]", "no JSON")]
)
async def test_a_first_line_that_is_no_event_says_so(pipe: Pipe, content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        await StdinFeed(fd=pipe(content)).shape()


async def test_events_that_lack_a_column_name_those_there_are(pipe: Pipe) -> None:
    with pytest.raises(InputError, match="no column w; there are v"):
        await StdinFeed(fd=pipe(b'{"v": 1}')).shape(["w"])


async def test_a_file_is_standard_input_too(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(numbers(1600))
    with (tmp_path / "in").open("rb") as file:
        records = await all_of(StdinFeed(fd=file.fileno()).batches())
    assert pcm(records) == list(range(1600))


async def test_nothing_at_all_is_no_stream(pipe: Pipe) -> None:
    assert await all_of(StdinFeed(fd=pipe(b"")).batches()) == []


async def test_a_feed_of_an_idle_pipe_can_be_stopped_and_ends_its_stream() -> None:
    reader, writer = os.pipe()
    log = MemoryLog()
    await log.create_topics([TopicSpec("sensors")])
    stop = asyncio.Event()
    try:
        os.write(writer, b'{"v": 1}\n')
        report = PumpReport()
        pumping = asyncio.create_task(pump(StdinFeed(fd=reader), log, "sensors", stop=stop, report=report))
        async with log.reader({TopicPartition("sensors", p): 0 for p in range(4)}) as tail:
            assert await tail.read(timeout_s=10.0)
        stop.set()
        await pumping
        assert (report.records, report.ended_streams) == (2, 1)
    finally:
        os.close(reader)
        os.close(writer)


def block(first: int, samples: int, lost: int = 0, reason: str = "device") -> Block:
    return Block(np.arange(first, first + samples).astype("<i2").tobytes(), lost, reason if lost else "")


def test_blocks_of_any_size_become_records_of_one_size_and_an_end() -> None:
    cutter = Cutter("mic", RATE_HZ, 1, 100, start_ms=5000)
    records = [*cutter.cut([block(0, 70), block(70, 150)]), *cutter.cut([block(220, 10)]), cutter.end()]
    places = [parse_headers(r.headers) for r in records]
    assert pcm(records) == list(range(230))
    assert [p.sample_index for p in places] == [0, 100, 200]
    assert [p.eos for p in places] == [False, False, True]
    assert [r.timestamp_ms for r in records] == [5000, 5006, 5012]


def test_a_gap_ends_its_record_early_marks_the_next_and_counts_in_the_index() -> None:
    cutter = Cutter("mic", RATE_HZ, 1, 100, start_ms=0)
    records = [*cutter.cut([block(0, 50), block(80, 100, lost=30)]), cutter.end()]
    assert [len(r.value or b"") // 2 for r in records] == [50, 100, 0]
    assert [parse_headers(r.headers).sample_index for r in records] == [0, 80, 180]
    assert [dict(r.headers).get(GAP) for r in records] == [None, b"30;reason=device", None]


def test_a_full_buffer_loses_the_block_and_says_so_on_the_next() -> None:
    buffer = BlockBuffer(limit_samples=100, frame_bytes=2)
    buffer.put(block(0, 80).pcm)
    buffer.put(block(80, 80).pcm)
    [kept] = buffer.drain()
    buffer.put(block(160, 80).pcm)
    assert kept == block(0, 80)
    assert buffer.drain() == [block(160, 80, lost=80, reason="overflow")]


def test_what_is_lost_at_the_very_end_is_marked_too() -> None:
    buffer = BlockBuffer(limit_samples=100, frame_bytes=2)
    buffer.put(block(0, 80).pcm)
    buffer.put(block(80, 80).pcm, lost_samples=7)
    cutter = Cutter("mic", RATE_HZ, 1, 1000, start_ms=0)
    records = [*cutter.cut(buffer.rest()), cutter.end()]
    assert parse_gap(dict(records[-1].headers)[GAP]) == (87, "device")


@settings(deadline=None)
@given(
    limit=st.integers(50, 400),
    moves=st.lists(st.tuples(st.integers(1, 120), st.integers(0, 30), st.booleans()), max_size=40),
)
def test_samples_that_came_are_samples_in_records_plus_samples_in_marked_gaps(
    limit: int, moves: list[tuple[int, int, bool]]
) -> None:
    buffer = BlockBuffer(limit, frame_bytes=2)
    cutter = Cutter("mic", RATE_HZ, 1, 64, start_ms=0)
    records: list[NewRecord] = []
    came = 0
    for samples, lost, drained in moves:
        buffer.put(block(came, samples).pcm, lost)
        came += samples + lost
        if drained:
            records += cutter.cut(buffer.drain())
    records += [*cutter.cut(buffer.rest()), cutter.end()]
    marked = [parse_gap(dict(r.headers)[GAP])[0] for r in records if GAP in dict(r.headers)]
    assert came == sum(len(r.value or b"") // 2 for r in records) + sum(marked)
    assert buffer.lost_samples == sum(marked)
    last = parse_headers(records[-1].headers)
    assert last.sample_index is not None
    assert last.sample_index + len(records[-1].value or b"") // 2 == came
