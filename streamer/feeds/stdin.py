"""Standard input as a feed: `arecord | python -m streamer feed -`, `cat events.jsonl | python -m streamer monitor -`.

What comes is told by its first bytes: a WAV header, a `{` that begins JSON Lines, or else raw s16le PCM. A pipe can
wait, so nothing is ever dropped; each run is a session of its own, which ends when the pipe is closed.
"""

from __future__ import annotations

import asyncio
import os
import struct
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from streamer.codecs.audio import audio_record
from streamer.codecs.headers import CONTENT_TYPE, EOS, SEQ, SESSION
from streamer.errors import InputError
from streamer.feeds.pace import SYSTEM_CLOCK, Clock
from streamer.feeds.tabular import TableShape, shape_of_rows
from streamer.records import NewRecord

Kind = Literal["auto", "pcm", "events"]
_READ_BYTES = 65_536
_MAX_LINE_BYTES = 1_000_000
_JSON = (CONTENT_TYPE, b"application/json")
_PCM_CODES = (1, 0xFFFE)


class StdinFeed:
    """Feeds what comes out of a file descriptor; one stream, or with `device` one for each of that field's values."""

    def __init__(
        self,
        *,
        fd: int = 0,
        kind: Kind = "auto",
        stream: str = "stdin",
        rate_hz: int = 16_000,
        channels: int = 1,
        device: str | None = None,
        chunk_ms: int = 100,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """kind: auto looks at the first bytes. rate_hz, channels: of raw PCM; a WAV header brings its own."""
        self._source = _Descriptor(fd)
        self._kind: Kind = kind
        self._stream = stream
        self._rate_hz = rate_hz
        self._channels = channels
        self._device = device
        self._chunk_ms = chunk_ms
        self._clock = clock

    @property
    def name(self) -> str:
        return "standard input"

    @property
    def live(self) -> bool:
        return False

    async def shape(self, columns: Sequence[str] | None = None, time: str | None = None) -> TableShape:
        """What the fields of the events mean, found out from the first one, which is waited for and not consumed.

        Raises InputError when the first line is no JSON object or lacks what was asked for.
        """
        line = await self._source.first_line()
        try:
            content = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise InputError(f"the first line of standard input is no JSON event: {line[:60]!r}")
        return shape_of_rows("the first event of standard input", [content], columns, time, self._device)

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        """Records until the pipe is closed. Raises InputError for a WAV that is not 16-bit PCM."""
        head = await self._source.at_least(1)
        if not head:
            return
        session = uuid.uuid4().hex[:16]
        if self._kind == "events" or (self._kind == "auto" and head.lstrip()[:1] == b"{"):
            async for batch in self._events(session):
                yield batch
            return
        if (await self._source.at_least(4))[:4] == b"RIFF":
            await self._wav_header()
        async for batch in self._pcm(session):
            yield batch

    async def _pcm(self, session: str) -> AsyncIterator[Sequence[NewRecord]]:
        chunk_samples = max(1, round(self._rate_hz * self._chunk_ms / 1000))
        frame_bytes = 2 * self._channels
        start_ms = self._clock.unix_ms()
        seq = 0
        ended = False
        while not ended:
            await self._source.at_least(chunk_samples * frame_bytes)
            payload = self._source.take(chunk_samples * frame_bytes)
            ended = len(payload) < chunk_samples * frame_bytes
            whole = payload[: len(payload) // frame_bytes * frame_bytes]
            samples = np.frombuffer(whole, "<i2").reshape(-1, self._channels)
            index = seq * chunk_samples
            time_ms = start_ms + index * 1000 // self._rate_hz
            yield [
                audio_record(
                    self._stream,
                    samples,
                    self._rate_hz,
                    session=session,
                    seq=seq,
                    sample_index=index,
                    time_ms=time_ms,
                    eos=ended,
                )
            ]
            seq += 1

    async def _events(self, session: str) -> AsyncIterator[Sequence[NewRecord]]:
        seen: dict[str, int] = {}
        mark = (SESSION, session.encode())
        while lines := await self._source.lines():
            records = []
            for line in lines:
                stream = self._stream if self._device is None else _field(line, self._device, self._stream)
                seq = seen.get(stream, 0)
                seen[stream] = seq + 1
                records.append(NewRecord(stream.encode(), line, (_JSON, mark, (SEQ, b"%d" % seq))))
            yield records
        if seen:
            yield [
                NewRecord(stream.encode(), b"", (_JSON, mark, (SEQ, b"%d" % seq), (EOS, b"1")))
                for stream, seq in seen.items()
            ]

    async def _wav_header(self) -> None:
        """Read up to the samples. The length stated there is passed over: who writes to a pipe does not know it.

        Source: Multimedia Programming Interface and Data Specifications 1.0, "Waveform Audio File Format".
        """
        await self._source.at_least(12)
        self._source.take(12)
        while len(await self._source.at_least(8)) >= 8:
            name, size = struct.unpack("<4sI", self._source.take(8))
            if name == b"data":
                return
            await self._source.at_least(size + size % 2)
            body = self._source.take(size + size % 2)
            if name == b"fmt " and len(body) >= 16:
                code, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                if code not in _PCM_CODES or bits != 16 or not channels or not rate_hz:
                    raise InputError(f"the WAV on standard input is not 16-bit PCM (format {code}, {bits} bits)")
                self._rate_hz, self._channels = rate_hz, channels
        raise InputError("the WAV on standard input ends before its samples")


class _Descriptor:
    """Bytes of a file descriptor as they come, never blocking the loop and never holding it up at its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._ended = False

    async def at_least(self, size_bytes: int) -> bytes:
        """What is buffered, at least so much unless the source ends before."""
        while len(self._buffer) < size_bytes and not self._ended:
            await self._more()
        return bytes(self._buffer[: max(size_bytes, 64)])

    def take(self, size_bytes: int) -> bytes:
        """At most so many bytes of what is buffered."""
        taken = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return taken

    async def first_line(self) -> bytes:
        """The first line that is not blank; it stays buffered."""
        while True:
            found = bytes(self._buffer).lstrip()
            if b"\n" in found or len(found) > _MAX_LINE_BYTES or self._ended:
                return found.partition(b"\n")[0]
            await self._more()

    async def lines(self) -> list[bytes]:
        """All whole lines that have come, at least one unless the source ends; blank ones left out."""
        while True:
            if b"\n" in self._buffer or len(self._buffer) > _MAX_LINE_BYTES or self._ended:
                cut = len(self._buffer) if self._ended else self._buffer.rfind(b"\n") + 1 or len(self._buffer)
                found = [line for line in self.take(cut).splitlines() if line.strip()]
                if found or self._ended:
                    return found
            await self._more()

    async def _more(self) -> None:
        await _readable(self._fd)
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        self._buffer += data
        self._ended = not data


async def _readable(fd: int) -> None:
    """Return when `fd` has something to read; a regular file always has."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(fd, _set, ready)
    except PermissionError:  # epoll watches no regular files
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _field(line: bytes, name: str, otherwise: str) -> str:
    """The stream that a line names; lines that name none are for the decoder to judge, in the stream `otherwise`."""
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return otherwise
    value = content.get(name) if isinstance(content, dict) else None
    return str(value) if isinstance(value, str | int) and value != "" else otherwise
