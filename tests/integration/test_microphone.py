"""The microphone end to end: what is played into a PulseAudio null sink comes out of the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from streamer.codecs.audio import AudioDecoder
from streamer.codecs.base import Decoded
from streamer.codecs.headers import GAP, parse_gap, parse_headers
from streamer.errors import InputError
from streamer.feeds.microphone import MicrophoneFeed, devices
from streamer.feeds.pump import pump
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, Record, TopicPartition
from streamer.testing.sound import NullSink

pytestmark = pytest.mark.mic

RATE_HZ = 48_000
WAIT_S = 30.0
Signal = NDArray[np.float32]


def noise(seconds: float) -> Signal:
    """Noise is like itself at one place only: where it was heard can be found exactly."""
    samples = np.random.default_rng(0).normal(size=int(seconds * RATE_HZ)) * 0.1
    return samples.astype(np.float32)


def heard(records: Sequence[NewRecord | Record]) -> Signal:
    stored = [Record("t", 0, i, r.timestamp_ms or 0, r.key, r.value, r.headers) for i, r in enumerate(records)]
    decoded = [result for result in AudioDecoder().decode(stored) if isinstance(result, Decoded)]
    assert len(decoded) == len(records)
    return np.concatenate([result.samples[:, 0] for result in decoded])


def gap(record: NewRecord) -> int:
    return sum(parse_gap(value)[0] for name, value in record.headers if name == GAP)


def likeness(played: Signal, recorded: Signal) -> float:
    """The correlation of `played` with the part of `recorded` that is most like it."""
    size = 1 << (len(played) + len(recorded)).bit_length()
    spectrum = np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(played, size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)[: len(recorded)]))
    part = recorded[lag : lag + len(played)]
    return float(np.corrcoef(part, played[: len(part)])[0, 1]) if len(part) > len(played) // 2 else 0.0


async def test_sound_that_is_played_arrives_in_the_records_of_the_topic(microphone: NullSink, tmp_path: Path) -> None:
    sound = noise(1.0)
    soundfile.write(tmp_path / "noise.wav", sound, RATE_HZ, subtype="PCM_16")
    log = MemoryLog()
    await log.create_topics([TopicSpec("audio", partitions=1)])
    stop = asyncio.Event()
    async with asyncio.timeout(WAIT_S):
        pumping = asyncio.create_task(pump(MicrophoneFeed("pulse", rate_hz=RATE_HZ), log, "audio", stop=stop))
        records: list[Record] = []
        async with log.reader({TopicPartition("audio", 0): 0}) as reader:
            while not records:
                records += [r for batch in await reader.read(timeout_s=1.0) for r in batch.records]
            player = microphone.play(tmp_path / "noise.wav")
            await asyncio.to_thread(player.wait)
            until = len(records) + 20
            while len(records) < until:
                records += [r for batch in await reader.read(timeout_s=1.0) for r in batch.records]
            stop.set()
            report = await pumping
            while len(records) < report.records:
                records += [r for batch in await reader.read(timeout_s=1.0) for r in batch.records]
    assert likeness(sound, heard(records)) > 0.9
    places = [parse_headers(r.headers) for r in records]
    assert [p.seq for p in places] == list(range(len(records)))
    assert [p.eos for p in places] == [False] * (len(records) - 1) + [True]
    assert {len(r.value or b"") for r in records[:-1]} == {2 * RATE_HZ // 10}


async def test_a_busy_event_loop_loses_the_oldest_sound_and_marks_how_much(microphone: NullSink) -> None:
    feed = MicrophoneFeed("pulse", rate_hz=RATE_HZ, buffer_s=0.2)
    second = Path(microphone.env["PULSE_RUNTIME_PATH"]) / "silence.wav"
    soundfile.write(second, np.zeros(RATE_HZ, np.int16), RATE_HZ)
    records: list[NewRecord] = []
    async with asyncio.timeout(WAIT_S), aclosing(feed.batches()) as batches:
        async for batch in batches:
            records.extend(batch)
            if any(gap(record) for record in records):
                break
            # The loop is held for as long as it takes to play a second: nothing is drained meanwhile.
            microphone.play(second).wait()
    assert sum(gap(record) for record in records) > 0.3 * RATE_HZ
    for before, after in pairwise(records):
        index, next_index = parse_headers(before.headers).sample_index, parse_headers(after.headers).sample_index
        assert index is not None
        assert next_index == index + len(before.value or b"") // 2 + gap(after)


async def test_unplugging_ends_the_stream_and_says_why(microphone: NullSink) -> None:
    feed = MicrophoneFeed("pulse", rate_hz=16_000)
    records: list[NewRecord] = []
    async with asyncio.timeout(WAIT_S):
        async for batch in feed.batches():
            if not records:
                await asyncio.to_thread(microphone.unplug)
            records.extend(batch)
    assert [parse_headers(r.headers).eos for r in records] == [False] * (len(records) - 1) + [True]
    assert feed.ended_because.startswith("pulse ")


def test_the_devices_are_listed_with_their_channels_and_rates(microphone: NullSink) -> None:
    [found] = [device for device in devices() if device.name == "pulse"]
    assert found.channels >= 1
    assert found.rate_hz >= 8_000


def test_a_device_that_is_not_there_names_those_that_are(microphone: NullSink) -> None:
    with pytest.raises(InputError, match=r"no input device 'headset'; input devices: .*pulse"):
        MicrophoneFeed("headset")
    with pytest.raises(InputError, match="no input device 999"):
        MicrophoneFeed(999)


async def test_a_rate_that_the_device_refuses_says_so(microphone: NullSink) -> None:
    with pytest.raises(InputError, match="cannot record from pulse at 1 Hz"):
        async for _ in MicrophoneFeed("pulse", rate_hz=1).batches():
            pass
