"""From blocks of any size, as a sound card gives them, to records of one size, losses marked. Knows no device.

Law: samples that came = samples in records + samples in the gaps marked on records.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamer.codecs.audio import audio_record
from streamer.codecs.headers import gap_header
from streamer.records import NewRecord


class Block(NamedTuple):
    """What one callback brought: interleaved s16le, samples lost before it, and why (device or overflow)."""

    pcm: bytes
    lost_samples: int
    reason: str


class BlockBuffer:
    """A bounded queue between PortAudio's thread, which puts, and the event loop, which drains; neither ever waits."""

    def __init__(self, limit_samples: int, frame_bytes: int) -> None:
        self._limit_samples = limit_samples
        self._frame_bytes = frame_bytes
        self._blocks: deque[Block] = deque()
        self._put_samples = 0
        self._drained_samples = 0
        self._owed = 0
        self._owed_reason = ""
        self.lost_samples = 0

    def put(self, pcm: bytes, lost_samples: int = 0) -> None:
        """Add a block that `lost_samples` lost by the device precede; a full buffer loses it, and says so later."""
        if lost_samples:
            self._owe(lost_samples, "device")
        samples = len(pcm) // self._frame_bytes
        if self._put_samples - self._drained_samples + samples > self._limit_samples:
            self._owe(samples, "overflow")
            return
        self._blocks.append(Block(pcm, self._owed, self._owed_reason))
        self._put_samples += samples
        self._owed, self._owed_reason = 0, ""

    def drain(self) -> list[Block]:
        """All blocks there are."""
        blocks = []
        while self._blocks:
            block = self._blocks.popleft()
            self._drained_samples += len(block.pcm) // self._frame_bytes
            blocks.append(block)
        return blocks

    def rest(self) -> list[Block]:
        """All blocks there are, and what is still owed as an empty one; for when no more come."""
        blocks = self.drain()
        if self._owed:
            blocks.append(Block(b"", self._owed, self._owed_reason))
            self._owed = 0
        return blocks

    def _owe(self, samples: int, reason: str) -> None:
        self.lost_samples += samples
        self._owed += samples
        self._owed_reason = self._owed_reason or reason


class Cutter:
    """Cuts blocks of any size into records of one size; a record ends early where a gap follows."""

    def __init__(self, stream: str, rate_hz: int, channels: int, chunk_samples: int, start_ms: int) -> None:
        self._stream = stream
        self._session = uuid.uuid4().hex[:16]
        self._rate_hz = rate_hz
        self._channels = channels
        self._chunk_samples = chunk_samples
        self._start_ms = start_ms
        self._buffer = bytearray()
        self._seq = 0
        self._index = 0
        self._marks: tuple[tuple[str, bytes], ...] = ()

    def cut(self, blocks: Sequence[Block]) -> list[NewRecord]:
        """The records that are complete with these blocks."""
        records: list[NewRecord] = []
        size_bytes = self._chunk_samples * 2 * self._channels
        for block in blocks:
            if block.lost_samples:
                if self._buffer:
                    records.append(self._record(bytes(self._buffer)))
                    self._buffer.clear()
                self._index += block.lost_samples
                self._marks = (gap_header(block.lost_samples, block.reason),)
            self._buffer += block.pcm
            while len(self._buffer) >= size_bytes:
                records.append(self._record(bytes(self._buffer[:size_bytes])))
                del self._buffer[:size_bytes]
        return records

    def end(self) -> NewRecord:
        """The last record, with what is left, maybe nothing."""
        return self._record(bytes(self._buffer), eos=True)

    def _record(self, pcm: bytes, eos: bool = False) -> NewRecord:
        samples = np.frombuffer(pcm, "<i2").reshape(-1, self._channels)
        record = audio_record(
            self._stream,
            samples,
            self._rate_hz,
            session=self._session,
            seq=self._seq,
            sample_index=self._index,
            time_ms=self._start_ms + self._index * 1000 // self._rate_hz,
            eos=eos,
            marks=self._marks,
        )
        self._seq += 1
        self._index += len(samples)
        self._marks = ()
        return record
