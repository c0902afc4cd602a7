"""Audio records: what decodes, what is malformed and why."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.codecs.audio import AudioDecoder, audio_record, parse_content_type, pcm_bytes, samples_in
from streamer.codecs.base import Decoded
from streamer.codecs.headers import gap_header, parse_gap
from streamer.errors import Malformed
from streamer.records import Headers, NewRecord, Record

RATE_HZ = 16_000


def stored(record: NewRecord, offset: int = 0) -> Record:
    return Record("audio", 0, offset, record.timestamp_ms or 0, record.key, record.value, record.headers)


def raw(value: bytes | None, headers: Headers = (), key: bytes | None = b"mic") -> Record:
    return Record("audio", 0, 0, 1_700_000_000_000, key, value, headers)


def typed(value: bytes, content_type: str) -> Record:
    return raw(value, (("content-type", content_type.encode()),))


def decoded(record: Record, decoder: AudioDecoder | None = None) -> Decoded:
    [result] = (decoder or AudioDecoder()).decode([record])
    assert isinstance(result, Decoded), result
    return result


def reason(record: Record, decoder: AudioDecoder | None = None) -> str:
    [result] = (decoder or AudioDecoder()).decode([record])
    assert isinstance(result, Malformed)
    return str(result)


def tone(samples: int, channels: int = 1) -> NDArray[np.float32]:
    time = np.arange(samples)[:, None] / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * 440 * time * np.arange(1, channels + 1))).astype(np.float32)


def container(samples: NDArray[np.float32], rate_hz: int, form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def test_a_record_made_from_floats_decodes_to_them_within_half_a_step_of_16_bits() -> None:
    samples = tone(1600)[:, 0]
    made = audio_record("mic", samples, RATE_HZ, session="a", seq=7, sample_index=11_200, time_ms=5, eos=True)
    result = decoded(stored(made))
    assert (result.stream, result.session, result.seq, result.sample_index) == ("mic", "a", 7, 11_200)
    assert (result.time_ms, result.rate_hz, result.eos) == (5, RATE_HZ, True)
    assert result.samples.shape == (1600, 1)
    assert result.samples.dtype == np.float32
    assert np.abs(result.samples[:, 0] - samples).max() <= 0.5 / 32768


def test_16_bit_samples_survive_both_ways_unchanged() -> None:
    samples = np.array([-32768, -1, 0, 1, 32767], np.int16)
    result = decoded(stored(audio_record("mic", samples, RATE_HZ, session="a", seq=0, sample_index=0, time_ms=0)))
    assert pcm_bytes(result.samples) == samples.tobytes()


def test_floats_beyond_full_scale_are_clipped_when_written() -> None:
    assert np.frombuffer(pcm_bytes(np.array([2.0, -2.0])), "<i2").tolist() == [32767, -32768]


def test_channels_are_mixed_down_to_their_mean() -> None:
    stereo = np.array([[1000, 3000], [-4000, 0]], np.int16)
    record = audio_record("mic", stereo, 44_100, session="a", seq=0, sample_index=0, time_ms=0)
    result = decoded(stored(record))
    assert result.rate_hz == 44_100
    assert result.samples[:, 0] * 32768 == pytest.approx([2000, -2000])


def test_records_without_a_content_type_are_what_was_configured() -> None:
    decoder = AudioDecoder(codec="f32le", rate_hz=8_000, channels=2)
    result = decoded(raw(struct.pack("<4f", 0.5, 0.25, -1.0, 0.0)), decoder)
    assert result.rate_hz == 8_000
    assert result.samples[:, 0].tolist() == [0.375, -0.5]


def test_a_batch_gives_each_record_its_own_samples_beside_bad_neighbours() -> None:
    ones, twos = np.full(10, 1, np.int16).tobytes(), np.full(20, 2, np.int16).tobytes()
    first, bad, second, end = AudioDecoder().decode([raw(ones), raw(b"\0"), raw(twos), raw(b"", (("x-eos", b"1"),))])
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert isinstance(bad, Malformed)
    assert isinstance(end, Decoded)
    assert (first.samples * 32768).tolist() == [[1.0]] * 10
    assert (second.samples * 32768).tolist() == [[2.0]] * 20
    assert end.samples.shape == (0, 1)
    assert end.eos


@pytest.mark.parametrize(
    ("form", "subtype", "content_type", "exact"),
    [
        ("FLAC", "PCM_16", "audio/flac", True),
        ("WAV", "PCM_16", "audio/wav", True),
        ("WAV", "FLOAT", "audio/x-wav", True),
        ("OGG", "OPUS", "audio/ogg;codecs=opus", False),
        ("OGG", "VORBIS", "audio/ogg", False),
        ("MP3", None, "audio/mpeg", False),
    ],
)
def test_a_packet_in_a_container_decodes_alone(form: str, subtype: str | None, content_type: str, exact: bool) -> None:
    samples = (np.round(tone(4800, 2) * 32768) / 32768).astype(np.float32)
    result = decoded(typed(container(samples, 48_000, form, subtype), content_type))
    assert result.rate_hz == 48_000
    if exact:
        assert np.array_equal(result.samples[:, 0], samples.mean(axis=1))
    else:
        loudness = float(np.sqrt(np.mean(result.samples**2)))
        assert loudness == pytest.approx(float(np.sqrt(np.mean(samples.mean(axis=1) ** 2))), rel=0.25)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (raw(b""), "empty"),
        (raw(None), "empty"),
        (raw(b"\0\0\0"), "3 bytes are no whole number of frames of 2 bytes"),
        (typed(b"\0" * 6, "audio/L16;channels=2"), "6 bytes are no whole number of frames of 4 bytes"),
        (typed(struct.pack("<2f", 0.0, float("nan")), "audio/x-f32le"), "sample 1 of 2 is [nan]"),
        (typed(struct.pack("<f", float("inf")), "audio/x-f32le"), "[inf]"),
        (typed(struct.pack("<f", 20_000.0), "audio/x-f32le"), "looks unscaled"),
        (typed(b"\0\0", "audio/L16;rate=100"), "100 Hz is not between 4000 and 192000"),
        (typed(b"\0\0", "audio/L16;rate=1000000"), "1000000 Hz"),
        (typed(b"\0\0", "audio/L16;channels=0"), "0 channels"),
        (typed(b"\0\0", "audio/L16;channels=65"), "65 channels"),
        (typed(b"\0\0", "audio/L16;rate=fast"), "'fast'"),
        (typed(b"\0\0", "text/plain"), "'text/plain' is not audio"),
        (typed(b"\0\0\0\0", "audio/flac"), "not flac"),
        (typed(b"fLaC" + b"\0" * 100, "audio/flac"), "no readable flac"),
        (raw(b"\0\0", (("x-seq", b"-1"),)), "x-seq is '-1'"),
        (raw(b"\0\0", (("x-seq", b"9" * 19),)), "x-seq"),
        (raw(b"\0\0", (("x-sample-index", b"1e3"),)), "x-sample-index is '1e3'"),
        (raw(b"\0\0", (("x-eos", b"maybe"),)), "x-eos is 'maybe'"),
        (raw(b"\0\0", (("x-session", b""),)), "x-session"),
        (raw(b"\0\0", (("x-session", b"\xff"),)), "not UTF-8"),
        (raw(b"\0\0", key=None), "no key"),
        (raw(b"\0\0", key=b"\xff"), "not UTF-8"),
    ],
)
def test_a_malformed_record_says_what_is_wrong(record: Record, why: str) -> None:
    assert why in reason(record)


def test_a_record_over_the_size_limit_is_malformed_whatever_it_is_packed_in() -> None:
    decoder = AudioDecoder(max_decoded_bytes=4 * 1000)
    assert "over the limit of 4000" in reason(raw(b"\0\0" * 1001), decoder)
    bomb = container(np.zeros((100_000, 1), np.float32), RATE_HZ, "FLAC")
    assert len(bomb) < 4000
    assert "over the limit of 4000" in reason(typed(bomb, "audio/flac"), decoder)
    assert "over the limit of 4000" in reason(typed(container(tone(9000), RATE_HZ, "OGG"), "audio/ogg"), decoder)


def test_a_truncated_flac_packet_gives_what_is_whole_or_its_reason() -> None:
    packet = container(tone(16_000), RATE_HZ, "FLAC")
    [result] = AudioDecoder().decode([typed(packet[: len(packet) // 2], "audio/flac")])
    assert isinstance(result, Malformed) or len(result.samples) < 16_000


def test_records_without_a_key_can_have_a_stream_by_default() -> None:
    assert decoded(raw(b"\0\0", key=None), AudioDecoder(default_stream="line")).stream == "line"


def test_of_a_repeated_header_the_last_one_counts() -> None:
    assert decoded(raw(b"\0\0", (("x-seq", b"1"), ("x-seq", b"2")))).seq == 2


def test_a_gap_mark_says_how_many_samples_and_why() -> None:
    name, value = gap_header(480, "overflow")
    assert name == "x-gap"
    assert parse_gap(value) == (480, "overflow")


def test_the_length_of_a_payload_is_known_without_decoding_it() -> None:
    assert samples_in(b"\0" * 8, b"audio/L16;channels=2") == 2
    assert samples_in(b"\0" * 8, b"audio/x-f32le") == 2
    assert samples_in(container(tone(1234), RATE_HZ, "FLAC"), b"audio/flac") == 1234
    assert samples_in(b"nothing", b"audio/flac") == 0


def test_a_content_type_is_read_without_regard_to_case_and_spaces() -> None:
    assert parse_content_type(b"Audio/L16 ; rate=8000 ; channels=2") == ("s16le", 8000, 2)


header_names = st.sampled_from(["content-type", "x-session", "x-seq", "x-sample-index", "x-eos", "other"])
content_types = st.sampled_from(
    [b"audio/L16", b"audio/L16;rate=8000;channels=3", b"audio/x-f32le", b"audio/flac", b"audio/ogg", b"audio/wav", b"x"]
)
magic = st.sampled_from([b"", b"fLaC", b"OggS", b"RIFF\x24\0\0\0WAVEfmt ", b"ID3"])


@settings(deadline=None)
@given(
    value=st.none() | st.builds(bytes.__add__, magic, st.binary(max_size=300)),
    headers=st.lists(st.tuples(header_names, st.binary(max_size=20) | content_types), max_size=5),
    key=st.none() | st.binary(max_size=10),
)
def test_any_bytes_at_all_are_decoded_or_malformed(
    value: bytes | None, headers: list[tuple[str, bytes]], key: bytes | None
) -> None:
    [result] = AudioDecoder().decode([raw(value, headers, key)])
    if isinstance(result, Decoded):
        assert result.samples.shape[1:] == (1,)
        assert np.isfinite(result.samples).all()
    else:
        assert str(result)


@settings(deadline=None)
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
@pytest.mark.parametrize(("form", "content_type"), [("FLAC", "audio/flac"), ("OGG", "audio/ogg"), ("WAV", "audio/wav")])
def test_a_damaged_packet_is_decoded_or_malformed(
    form: str, content_type: str, cut: int, flips: list[tuple[int, int]]
) -> None:
    packet = bytearray(container(tone(800), RATE_HZ, form))
    for place, value in flips:
        packet[place % len(packet)] = value
    [result] = AudioDecoder().decode([typed(bytes(packet[: len(packet) - cut]), content_type)])
    assert isinstance(result, Malformed) or np.isfinite(result.samples).all()
