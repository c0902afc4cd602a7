"""Files and tables as feeds: what they give, at what pace, and what they say of input that is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from numpy.typing import NDArray

from streamer.codecs.audio import AudioDecoder
from streamer.codecs.base import Decoded, Decoder
from streamer.codecs.headers import parse_headers
from streamer.errors import ConfigurationError, InputError, Malformed
from streamer.feeds.audio_file import AudioFileFeed, find_audio
from streamer.feeds.base import Feed
from streamer.feeds.table import TableFeed
from streamer.records import NewRecord, Record
from streamer.testing.clocks import FakeClock


async def all_of(feed: Feed) -> list[NewRecord]:
    return [record async for batch in feed.batches() for record in batch]


def read(decoder: Decoder, records: Sequence[NewRecord]) -> list[Decoded | Malformed]:
    return decoder.decode(
        [Record("t", 0, i, r.timestamp_ms or 0, r.key, r.value, r.headers) for i, r in enumerate(records)]
    )


def good(decoder: Decoder, records: Sequence[NewRecord]) -> list[Decoded]:
    results = read(decoder, records)
    assert all(isinstance(result, Decoded) for result in results), results
    return [result for result in results if isinstance(result, Decoded)]


def ramp(samples: int, channels: int = 1) -> NDArray[np.int16]:
    return (np.arange(samples * channels).reshape(samples, channels) % 20_000).astype(np.int16)


def write_audio(
    path: Path, samples: int = 3500, rate_hz: int = 16_000, channels: int = 1, subtype: str | None = None
) -> Path:
    soundfile.write(path, ramp(samples, channels), rate_hz, subtype=subtype)
    return path


async def test_a_file_is_one_stream_of_100_ms_records_that_say_their_place_and_end(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    records = good(AudioDecoder(), await all_of(AudioFileFeed([path], speed=0, start_ms=5000)))
    assert [len(r.samples) for r in records] == [1600, 1600, 300]
    assert [(r.seq, r.sample_index, r.time_ms, r.eos) for r in records] == [
        (0, 0, 5000, False),
        (1, 1600, 5100, False),
        (2, 3200, 5200, True),
    ]
    assert {r.stream for r in records} == {"a.wav"}
    assert np.array_equal(np.concatenate([r.samples for r in records]) * 32768, ramp(3500))


async def test_the_last_record_of_a_file_of_whole_chunks_ends_the_stream(tmp_path: Path) -> None:
    records = await all_of(AudioFileFeed([write_audio(tmp_path / "a.wav", 3200)], speed=0))
    assert [parse_headers(r.headers).eos for r in records] == [False, True]


async def test_the_session_is_named_by_the_content(tmp_path: Path) -> None:
    same, also, other = (tmp_path / f"{name}.wav" for name in ("same", "also", "other"))
    write_audio(same)
    also.write_bytes(same.read_bytes())
    write_audio(other, 3501)
    sessions = [
        parse_headers((await all_of(AudioFileFeed([p], speed=0)))[0].headers).session for p in (same, also, other)
    ]
    assert sessions[0] == sessions[1]
    assert sessions[0] != sessions[2]
    [again] = {parse_headers(r.headers).session for r in await all_of(AudioFileFeed([same], speed=0, again=True))}
    assert again != sessions[0]


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels", "subtype"),
    [
        ("a.wav", 8_000, 2, "PCM_16"),
        ("a.wav", 44_100, 1, "FLOAT"),
        ("a.wav", 48_000, 6, "PCM_24"),
        ("a.flac", 22_050, 2, "PCM_16"),
        ("a.ogg", 44_100, 2, "VORBIS"),
        ("a.opus", 48_000, 1, None),
        ("a.mp3", 44_100, 2, None),
    ],
)
async def test_any_format_rate_and_channel_count_is_fed_as_it_is(
    tmp_path: Path, name: str, rate_hz: int, channels: int, subtype: str | None
) -> None:
    path = tmp_path / name
    time_s = np.arange(rate_hz)[:, None] / rate_hz
    signal = 0.25 * np.sin(2 * np.pi * 300 * time_s) * np.ones((1, channels))
    form = "OGG" if path.suffix == ".opus" else None
    soundfile.write(path, signal, rate_hz, subtype="OPUS" if form else subtype, format=form)
    records = good(AudioDecoder(), await all_of(AudioFileFeed([path], speed=0)))
    heard = np.concatenate([r.samples[:, 0] for r in records])
    assert {r.rate_hz for r in records} == {rate_hz}
    assert len(heard) == pytest.approx(rate_hz, abs=2400)
    middle = heard[rate_hz // 4 : rate_hz // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)


async def test_raw_files_are_16_khz_s16le(tmp_path: Path) -> None:
    path = tmp_path / "goforward.raw"
    path.write_bytes(ramp(2000).tobytes())
    records = good(AudioDecoder(), await all_of(AudioFileFeed([path], speed=0)))
    assert np.array_equal(np.concatenate([r.samples for r in records]) * 32768, ramp(2000))


async def test_a_folder_is_all_its_audio_at_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.flac", "sub/a.wav"):
        write_audio(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no audio")
    feed = AudioFileFeed([tmp_path], speed=1.0, clock=FakeClock())
    batches = [[(r.key or b"").decode() for r in batch] async for batch in feed.batches()]
    assert batches == [["a.wav", "b.flac", "sub/a.wav"]] * 3


async def test_more_files_than_play_at_once_follow_as_others_end(tmp_path: Path) -> None:
    paths = [write_audio(tmp_path / f"{i}.wav", 1600) for i in range(5)]
    records = await all_of(AudioFileFeed(paths, speed=0, at_once=2))
    assert sorted((r.key or b"").decode() for r in records) == [f"{i}.wav" for i in range(5)]


def test_files_of_the_same_name_are_streams_by_their_path(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_audio(tmp_path / folder / "a.wav")
    streams = {file.stream for file in find_audio([tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav"])}
    assert len(streams) == 2


@pytest.mark.parametrize(("speed", "waits_s"), [(1.0, 0.1), (4.0, 0.025)])
async def test_the_pace_is_real_time_or_a_multiple_of_it(tmp_path: Path, speed: float, waits_s: float) -> None:
    clock = FakeClock()
    await all_of(AudioFileFeed([write_audio(tmp_path / "a.wav", 8000)], speed=speed, clock=clock))
    assert clock.slept_s == pytest.approx([waits_s] * 4)


async def test_without_a_pace_nothing_waits(tmp_path: Path) -> None:
    clock = FakeClock()
    await all_of(AudioFileFeed([write_audio(tmp_path / "a.wav", 8000)], speed=0, clock=clock))
    assert clock.slept_s == []


async def test_a_slow_reader_is_not_made_slower(tmp_path: Path) -> None:
    clock = FakeClock()
    feed = AudioFileFeed([write_audio(tmp_path / "a.wav", 8000)], speed=1.0, clock=clock)
    async for _ in feed.batches():
        clock.time_s += 0.15
    assert clock.slept_s == []


async def test_a_file_that_is_no_audio_says_so_before_anything_is_fed(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("hello")
    with pytest.raises(InputError, match=r"b\.wav is no audio"):
        await all_of(AudioFileFeed([tmp_path], speed=0))


async def test_a_file_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        await all_of(AudioFileFeed([write_audio(tmp_path / "a.wav", 0)], speed=0))


def test_paths_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        AudioFileFeed([tmp_path / "none.wav"])
    with pytest.raises(InputError, match="holds no audio"):
        AudioFileFeed([tmp_path])


def test_a_negative_speed_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="speed -1"):
        AudioFileFeed([write_audio(tmp_path / "a.wav")], speed=-1)


async def test_a_truncated_file_gives_what_is_whole_and_still_ends_its_stream(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 16_000)
    path.write_bytes(path.read_bytes()[:10_001])
    records = good(AudioDecoder(), await all_of(AudioFileFeed([path], speed=0)))
    assert sum(len(r.samples) for r in records) == (10_001 - 44) // 2
    assert [r.eos for r in records][-1]


async def test_a_file_that_breaks_off_ends_its_stream_and_is_named_after_the_others_were_fed_whole(
    tmp_path: Path,
) -> None:
    hiss = np.random.default_rng(0).normal(size=160_000) * 0.1
    for name in ("broken.flac", "whole.flac"):
        soundfile.write(tmp_path / name, hiss, 16_000)
    content = bytearray((tmp_path / "broken.flac").read_bytes())
    half = len(content) // 2
    content[half : half + 3000] = np.random.default_rng(1).bytes(3000)
    (tmp_path / "broken.flac").write_bytes(content)
    records: list[NewRecord] = []

    async def feed_all() -> None:
        async for batch in AudioFileFeed([tmp_path], speed=0).batches():
            records.extend(batch)

    with pytest.raises(InputError, match=r"broken\.flac is broken after [0-9.]+ s"):
        await feed_all()
    results = good(AudioDecoder(), records)
    assert sum(len(r.samples) for r in results if r.stream == "whole.flac") == 160_000
    broken = [r for r in results if r.stream == "broken.flac"]
    assert 0 < sum(len(r.samples) for r in broken) < 160_000
    assert [r.eos for r in broken] == [False] * (len(broken) - 1) + [True]


ROWS: list[dict[str, object]] = [
    {"timestamp": "2014-04-01 00:00:00", "machine": "m1", "temp": 20.5, "load": 1},
    {"timestamp": "2014-04-01 00:00:10", "machine": "m2", "temp": 30.5, "load": 2},
    {"timestamp": "2014-04-01 00:00:10", "machine": "m1", "temp": None, "load": 3},
    {"timestamp": "2014-04-01 00:05:00", "machine": "m1", "temp": 21.5, "load": 4},
]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    if path.suffix == ".parquet":
        typed = [
            {**row, "timestamp": datetime.fromisoformat(str(row["timestamp"])).replace(tzinfo=UTC)} for row in rows
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(typed), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";" if path.stem == "semicolons" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["t.csv", "semicolons.csv", "t.jsonl", "t.parquet"])
async def test_a_table_of_devices_is_one_stream_for_each_with_its_own_times(tmp_path: Path, name: str) -> None:
    feed = TableFeed(write_table(tmp_path / name, ROWS), device="machine")
    assert feed.shape.columns == ("temp", "load")
    assert feed.shape.time == "timestamp"
    results = good(feed.decoder(), await all_of(feed))
    rows, ends = results[:4], results[4:]
    assert [(r.stream, r.seq) for r in rows] == [("m1", 0), ("m2", 0), ("m1", 1), ("m1", 2)]
    assert [r.time_ms - rows[0].time_ms for r in rows] == [0, 10_000, 10_000, 300_000]
    assert datetime.fromtimestamp(rows[0].time_ms / 1000, UTC).isoformat() == "2014-04-01T00:00:00+00:00"
    wanted = [[20.5, 1], [30.5, 2], [np.nan, 3], [21.5, 4]]
    assert np.array_equal(np.concatenate([r.samples for r in rows]), np.array(wanted, np.float32), equal_nan=True)
    assert [(r.stream, r.seq, r.eos, len(r.samples)) for r in ends] == [("m1", 3, True, 0), ("m2", 1, True, 0)]
    assert len({r.session for r in results}) == 1


async def test_a_table_without_a_device_column_is_one_stream(tmp_path: Path) -> None:
    feed = TableFeed(write_table(tmp_path / "t.csv", ROWS), columns=["load"], stream="pump")
    results = good(feed.decoder(), await all_of(feed))
    assert {r.stream for r in results} == {"pump"}
    assert [r.samples.tolist() for r in results[:-1]] == [[[1.0]], [[2.0]], [[3.0]], [[4.0]]]


async def test_rows_without_a_time_are_spaced_by_the_interval(tmp_path: Path) -> None:
    clock = FakeClock(unix_ms=1_700_000_000_000)
    path = write_table(tmp_path / "t.csv", [{"load": 1}, {"load": 2}, {"load": 3}])
    feed = TableFeed(path, interval_s=0.5, speed=1.0, clock=clock)
    results = good(feed.decoder(), await all_of(feed))
    assert [r.time_ms - 1_700_000_000_000 for r in results[:-1]] == [0, 500, 1000]
    assert clock.slept_s == pytest.approx([0.5, 0.5])


async def test_a_table_is_paced_by_its_own_times(tmp_path: Path) -> None:
    clock = FakeClock()
    await all_of(TableFeed(write_table(tmp_path / "t.csv", ROWS), speed=10.0, clock=clock))
    assert clock.slept_s == pytest.approx([1.0, 29.0])


@pytest.mark.parametrize("asked", [{"columns": ["pressure"]}, {"time": "pressure"}, {"device": "pressure"}])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, asked: dict[str, object]) -> None:
    path = write_table(tmp_path / "t.csv", ROWS)
    with pytest.raises(InputError, match="no column pressure; there are timestamp, machine, temp, load"):
        TableFeed(path, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "holds no rows"),
        ("t.csv", b"a,a\n1,2\n", "two columns of the same name"),
        ("t.csv", b"name\nx\n", "no column of numbers; there are name"),
        ("t.csv", b"a\n\xff\xfe\n", "no text in UTF-8"),
        ("t.csv", b"RIFF\0\0\0\0", "zero bytes"),
        ("t.parquet", b"no parquet at all", "no Parquet"),
        ("t.jsonl", b"hello\n", "holds no rows"),
    ],
)
def test_what_is_no_table_says_so(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=why):
        TableFeed(tmp_path / name)


def test_a_table_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        TableFeed(tmp_path / "none.csv")


async def test_a_first_timestamp_that_is_none_says_so(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", [{"time": "noon", "load": 1}])
    with pytest.raises(InputError, match="'noon', which is no ISO 8601 time"):
        await all_of(TableFeed(path))


async def test_cells_and_lines_that_are_no_numbers_go_out_for_the_decoder_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"v": 1}\n{"v": "high"}\nnot json\n{"v": 2}\n')
    feed = TableFeed(path, columns=["v"])
    first, text, line, last, end = read(feed.decoder(), await all_of(feed))
    assert isinstance(first, Decoded)
    assert isinstance(last, Decoded)
    assert isinstance(end, Decoded)
    assert "got `str`" in str(text)
    assert "no json" in str(line)
