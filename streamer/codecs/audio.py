"""Audio payloads to mono samples and back. Every record decodes alone: no codec memory is carried between records.

Shapes: n samples, C channels; interleaved PCM is (n, C), what comes out is mono (n, 1) float32 with full scale 1.0.
`audio/L16` here is little-endian, as sound cards, WAV files and `arecord -f S16_LE` give it (RFC 2586 has it
big-endian; `audio/x-s16le` says the same without the ambiguity). Rates stay as they are: a stream resamples.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from streamer.codecs.base import Decoded, Samples
from streamer.codecs.headers import CONTENT_TYPE, EOS, SAMPLE_INDEX, SEQ, SESSION, StreamHeaders, parse_headers, shown
from streamer.errors import Malformed
from streamer.records import NewRecord, Record

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 64
MAX_DECODED_BYTES = 16 * 1024 * 1024
MAX_PEAK = 64.0
"""Float audio louder than this (36 dB over full scale) was never scaled to 1.0: its producer sends integers."""

_SAMPLE_BYTES = 4  # of a decoded float32
_SCALE = np.float32(1 / 32768)
_RAW = {"audio/l16": "s16le", "audio/x-s16le": "s16le", "audio/x-raw": "s16le", "audio/x-f32le": "f32le"}
_CONTAINERS = {
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "ogg",
    "audio/vorbis": "ogg",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/vnd.wave": "wav",
    "audio/mpeg": "mp3",
}
_MAGIC = {
    "flac": (b"fLaC",),
    "ogg": (b"OggS",),
    "wav": (b"RIFF", b"RF64"),
    "mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa"),
}
_EMPTY: Samples = np.zeros((0, 1), np.float32)


class AudioFormat(NamedTuple):
    """How a payload is written: `codec` is s16le, f32le, flac, ogg, wav or mp3; containers bring their own numbers."""

    codec: str
    rate_hz: int
    channels: int


class AudioDecoder:
    """Decodes audio records to mono; what their `content-type` leaves out has the defaults given here.

    codec, rate_hz, channels: of records without a content-type. default_stream: the stream of records without a key;
    None makes them malformed. max_decoded_bytes: limit of one record's float32 samples before the down-mix.
    """

    def __init__(
        self,
        *,
        codec: str = "s16le",
        rate_hz: int = 16_000,
        channels: int = 1,
        default_stream: str | None = None,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        """Raises Malformed when the defaults themselves are out of range."""
        if codec not in {"s16le", "f32le"} | _MAGIC.keys():
            raise Malformed(f"audio codec {codec!r} is not s16le, f32le, flac, ogg, wav or mp3")
        self._default = _checked(AudioFormat(codec, rate_hz, channels))
        self._default_stream = default_stream
        self._max_samples = max_decoded_bytes // _SAMPLE_BYTES

    def decode(self, records: Sequence[Record]) -> list[Decoded | Malformed]:
        """One result for each record, in order. The s16le records of a batch are scaled together."""
        results: list[Decoded | Malformed] = []
        raw: list[tuple[int, bytes]] = []
        for index, record in enumerate(records):
            try:
                decoded, pcm = self._one(record)
            except Malformed as error:
                results.append(error)
                continue
            results.append(decoded)
            if pcm is not None:
                raw.append((index, pcm))
        _scale_together(results, raw)
        return results

    def _one(self, record: Record) -> tuple[Decoded, bytes | None]:
        """A record's content; mono s16le is returned as it is, to be scaled with the rest of the batch."""
        headers = parse_headers(record.headers)
        stream = stream_of(record, self._default_stream)
        form = self._default if headers.content_type is None else _format(headers.content_type, self._default)
        payload = record.value or b""
        if not payload:
            if not headers.eos:
                raise Malformed("the record is empty and does not end its stream (x-eos)")
            return _decoded(record, stream, headers, _EMPTY, form.rate_hz), None
        if form.codec == "s16le":
            self._check_raw(payload, 2, form.channels)
            if form.channels == 1:
                return _decoded(record, stream, headers, _EMPTY, form.rate_hz), payload
            pcm = np.frombuffer(payload, "<i2").reshape(-1, form.channels)
            return _decoded(record, stream, headers, _mono(pcm * _SCALE), form.rate_hz), None
        if form.codec == "f32le":
            self._check_raw(payload, 4, form.channels)
            samples = np.frombuffer(payload, "<f4").reshape(-1, form.channels)
            return _decoded(record, stream, headers, _mono(_sane(samples)), form.rate_hz), None
        samples, rate_hz = self._container(payload, form.codec)
        return _decoded(record, stream, headers, _mono(_sane(samples)), rate_hz), None

    def _check_raw(self, payload: bytes, sample_bytes: int, channels: int) -> None:
        frame_bytes = sample_bytes * channels
        if len(payload) % frame_bytes:
            raise Malformed(
                f"{len(payload)} bytes are no whole number of frames of {frame_bytes} bytes "
                f"({channels} channels of {sample_bytes} bytes)"
            )
        self._check_size(len(payload) // sample_bytes)

    def _check_size(self, samples: int) -> None:
        if samples > self._max_samples:
            limit = self._max_samples * _SAMPLE_BYTES
            raise Malformed(f"the record decodes to {samples * _SAMPLE_BYTES} bytes, over the limit of {limit}")

    def _container(self, payload: bytes, codec: str) -> tuple[NDArray[np.float32], int]:
        """(n, C) samples and the rate of a whole FLAC, Ogg, WAV or MP3 file in memory."""
        # libsndfile guesses among two dozen formats; bytes from a topic only ever reach the parser they claim.
        if not payload.startswith(_MAGIC[codec]):
            raise Malformed(f"the payload starts with {shown(payload[:4])}, which is not {codec}")
        try:
            with soundfile.SoundFile(io.BytesIO(payload)) as file:
                _checked(AudioFormat(codec, file.samplerate, file.channels))
                self._check_size(max(file.frames, 0) * file.channels if codec != "ogg" else 0)
                # A header may lie about its length: never read more than the limit.
                most = self._max_samples // file.channels + 1
                samples: NDArray[np.float32] = file.read(most, dtype="float32", always_2d=True)
                rate_hz = int(file.samplerate)
        except soundfile.SoundFileError as error:
            raise Malformed(f"the payload is no readable {codec}: {error}") from None
        if samples.size == 0:
            raise Malformed(f"the {codec} payload holds no samples")
        self._check_size(samples.size)
        return samples, rate_hz


def audio_record(
    stream: str,
    samples: NDArray[Any],
    rate_hz: int,
    *,
    session: str,
    seq: int,
    sample_index: int,
    time_ms: int,
    eos: bool = False,
    marks: tuple[tuple[str, bytes], ...] = (),
) -> NewRecord:
    """An s16le record. samples: (n,) or (n, C), int16 as they are or floats with full scale 1.0 (clipped).

    time_ms: capture time of the first sample. marks: further headers, such as a gap's.
    """
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    return NewRecord(
        stream.encode(),
        pcm_bytes(samples),
        (
            content_type(rate_hz, channels),
            (SESSION, session.encode()),
            (SEQ, b"%d" % seq),
            (SAMPLE_INDEX, b"%d" % sample_index),
            *(((EOS, b"1"),) if eos else ()),
            *marks,
        ),
        time_ms,
    )


@lru_cache(maxsize=256)
def content_type(rate_hz: int, channels: int) -> tuple[str, bytes]:
    """The header of s16le PCM."""
    return CONTENT_TYPE, f"audio/L16;rate={rate_hz};channels={channels}".encode()


def pcm_bytes(samples: NDArray[Any]) -> bytes:
    """Interleaved s16le of int16 or float samples, (n,) or (n, C)."""
    if samples.dtype == np.int16:
        return samples.astype("<i2", copy=False).tobytes()
    scaled = np.rint(samples.astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def stream_of(record: Record, default: str | None) -> str:
    """The stream a record's key names, else `default`. Raises Malformed."""
    if not record.key:
        if default is None:
            raise Malformed("the record has no key to name its stream")
        return default
    try:
        return record.key.decode()
    except UnicodeDecodeError:
        raise Malformed(f"the key {shown(record.key)} is not UTF-8") from None


def parse_content_type(value: bytes, *, rate_hz: int = 16_000, channels: int = 1) -> AudioFormat:
    """The format a content-type names; raw PCM that names no rate or channels has those given. Raises Malformed."""
    return _format(value, AudioFormat("s16le", rate_hz, channels))


@lru_cache(maxsize=1024)
def _format(value: bytes, default: AudioFormat) -> AudioFormat:
    text = value.decode("utf-8", "backslashreplace")
    kind, *parameters = (part.strip() for part in text.split(";"))
    kind = kind.lower()
    if kind in _CONTAINERS:
        return AudioFormat(_CONTAINERS[kind], default.rate_hz, 1)
    if kind == "application/octet-stream":
        return default
    if kind not in _RAW:
        raise Malformed(f"content-type {shown(value)} is not audio/L16, x-f32le, flac, ogg, wav or mpeg")
    numbers = dict(part.partition("=")[::2] for part in parameters)
    rate_hz = _number(value, numbers.get("rate"), default.rate_hz)
    return _checked(AudioFormat(_RAW[kind], rate_hz, _number(value, numbers.get("channels"), default.channels)))


def _number(content_type_value: bytes, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Malformed(f"content-type {shown(content_type_value)} has a number {text[:20]!r} that is none")
    return int(text)


def _checked(form: AudioFormat) -> AudioFormat:
    if not MIN_RATE_HZ <= form.rate_hz <= MAX_RATE_HZ:
        raise Malformed(f"a rate of {form.rate_hz} Hz is not between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz")
    if not 1 <= form.channels <= MAX_CHANNELS:
        raise Malformed(f"{form.channels} channels are not between 1 and {MAX_CHANNELS}")
    return form


def _decoded(record: Record, stream: str, headers: StreamHeaders, samples: Samples, rate_hz: int) -> Decoded:
    return Decoded(
        stream,
        record.timestamp_ms,
        samples,
        rate_hz,
        headers.session,
        headers.seq,
        headers.sample_index,
        headers.eos,
    )


def _sane(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(samples)
    if not finite.all():
        where = int(np.argmin(finite.all(axis=1)))
        raise Malformed(f"sample {where} of {len(samples)} is {samples[where].tolist()}, neither finite nor audio")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        raise Malformed(f"the loudest sample is {peak:g}: float audio has full scale 1.0, this looks unscaled")
    return samples


def _mono(samples: NDArray[np.float32]) -> Samples:
    """(n, C) -> (n, 1): the mean of the channels."""
    if samples.shape[1] == 1:
        return samples
    mono: Samples = samples.mean(axis=1, dtype=np.float32, keepdims=True)
    return mono


def _scale_together(results: list[Decoded | Malformed], raw: list[tuple[int, bytes]]) -> None:
    """Give the mono s16le records of a batch their samples: one conversion, then a view for each."""
    if not raw:
        return
    joined = np.frombuffer(b"".join([pcm for _, pcm in raw]), "<i2") * _SCALE
    column = joined.reshape(-1, 1)
    start = 0
    for index, pcm in raw:
        end = start + len(pcm) // 2
        decoded = results[index]
        if isinstance(decoded, Decoded):
            decoded.samples = column[start:end]
        start = end


def samples_in(payload: bytes, content_type_value: bytes) -> int:
    """How many samples (of each channel) an audio payload holds; of a container what its header says.

    Raises Malformed for a content-type that is no audio.
    """
    form = parse_content_type(content_type_value)
    if form.codec in {"s16le", "f32le"}:
        return len(payload) // (form.channels * (2 if form.codec == "s16le" else 4))
    try:
        return max(0, int(soundfile.info(io.BytesIO(payload)).frames))
    except soundfile.SoundFileError:
        return 0
