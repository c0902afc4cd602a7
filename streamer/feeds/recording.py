"""Recordings: any topic in a file, with partitions, offsets, keys, headers and times, byte for byte.

The file, version 1: the magic `STREAMREC1\n`, then frames. A frame is a little-endian uint32 length, a little-endian
uint32 CRC-32 of the body, and the body, one MessagePack value:

    first   {"topic": str, "partitions": int, "created_ms": int}
    records [partition, offset, timestamp_ms, key | nil, value | nil, [[header, value], ...]]    in reading order
    last    {"records": int}

It is written as it is read and needs no index. A file without its last frame, or with half a frame, was cut off:
what is whole before the cut is read, and `Recording.truncated` says so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from streamer.errors import InputError
from streamer.records import Record

MAGIC = b"STREAMREC1\n"
_FRAME = struct.Struct("<II")
_MAX_FRAME_BYTES = 1 << 30


class Origin(msgspec.Struct, frozen=True):
    """What a recording is of."""

    topic: str
    partitions: int
    created_ms: int


class _End(msgspec.Struct, frozen=True):
    records: int


_RecordBody = tuple[int, int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
_ORIGIN = msgspec.msgpack.Decoder(Origin)
_BODY: msgspec.msgpack.Decoder[_RecordBody | _End] = msgspec.msgpack.Decoder(_RecordBody | _End)


class RecordingWriter:
    """Writes a recording; a context manager, whose end writes the last frame. Fails if the file is there already."""

    def __init__(self, path: Path | str, origin: Origin) -> None:
        self._path = Path(path)
        self._origin = origin
        self._encode = msgspec.msgpack.Encoder().encode
        self.records = 0

    def __enter__(self) -> Self:
        """Raises InputError when the file exists or cannot be made."""
        try:
            self._file: BinaryIO = self._path.open("xb")
        except FileExistsError:
            raise InputError(f"{self._path} exists already; a recording overwrites nothing") from None
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from None
        self._file.write(MAGIC + self._frame(self._origin))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.write(self._frame(_End(self.records)))

    def write(self, records: list[Record]) -> None:
        """Append records and hand them to the operating system. Raises InputError when the disk is full."""
        frames = [
            self._frame((r.partition, r.offset, r.timestamp_ms, r.key, r.value, tuple(map(tuple, r.headers))))
            for r in records
        ]
        try:
            self._file.write(b"".join(frames))
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from None
        self.records += len(records)

    def _frame(self, content: object) -> bytes:
        body = self._encode(content)
        return _FRAME.pack(len(body), zlib.crc32(body)) + body


class Recording:
    """A recording to be read. `truncated` is known when `records()` has ended."""

    def __init__(self, path: Path | str) -> None:
        """Raises InputError when there is no such file or it is no recording."""
        self._path = Path(path)
        self.truncated = False
        try:
            with self._path.open("rb") as file:
                self.origin = self._head(file)
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from None

    def records(self) -> Iterator[Record]:
        """The records in the order in which they were read. Raises InputError for a frame that was changed."""
        self.truncated = True
        with self._path.open("rb") as file:
            self._head(file)
            while (body := self._body(file)) is not None:
                try:
                    content = _BODY.decode(body)
                except msgspec.DecodeError as error:
                    raise InputError(f"{self._path} has a frame that is no record: {error}") from None
                if isinstance(content, _End):
                    self.truncated = False
                    return
                yield Record(self.origin.topic, *content)

    def _head(self, file: BinaryIO) -> Origin:
        if file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{self._path} is no recording (python -m streamer record makes them)")
        body = self._body(file)
        if body is None:
            raise InputError(f"{self._path} is cut off before its first record")
        try:
            return _ORIGIN.decode(body)
        except msgspec.DecodeError as error:
            raise InputError(f"{self._path} is no recording: {error}") from None

    def _body(self, file: BinaryIO) -> bytes | None:
        """The next frame's body, None where the file ends or was cut off."""
        start = file.tell()
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        length, checksum = _FRAME.unpack(head)
        body = file.read(min(length, _MAX_FRAME_BYTES))
        if len(body) < length:
            return None
        if zlib.crc32(body) != checksum:
            raise InputError(f"{self._path} is damaged at byte {start}: the checksum of a frame is wrong")
        return body
