"""A pipeline's saved states in a file: everything a worker continues from, without the input.

The file, version 1: the magic `STREAMSTATE1\n`, then frames, then a BLAKE2b hash of 32 bytes over all before. A frame
is a little-endian uint64 length and a body, one MessagePack value:

    first   {"application", "pipeline", "topic", "model": str, "partitions", "created_ms": int}
    then    {"partition": int, "committed": int | nil, "floor": int | nil, "states": [[key, state], ...]}
            one for each partition of the input, in order

topic: the pipeline's input, whose offsets all positions are. model: `name-version@fingerprint`. committed: the group's
offset, nil where it never committed. floor: the lowest offset that no state contains, nil where none was written. A
state is what the changelog holds (`streamer.worker.snapshot`), with a hash of its own.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, NamedTuple, Self

import msgspec

from streamer.errors import InputError, StateMismatch
from streamer.worker import snapshot

MAGIC = b"STREAMSTATE1\n"
_LENGTH = struct.Struct("<Q")
_HASH_BYTES = 32

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Leaf name to (dtype, shape) of one stream's recurrent state."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Origin(msgspec.Struct, frozen=True):
    """What a backup is of, and when it was made."""

    application: str
    pipeline: str
    topic: str
    model: str
    partitions: _Count
    created_ms: int


class PartitionStates(msgspec.Struct, frozen=True):
    """What is saved of one partition. states: changelog key and snapshot of each stream."""

    partition: _Count
    committed: _Count | None
    floor: _Count | None
    states: tuple[tuple[bytes, bytes], ...]

    @property
    def position(self) -> int | None:
        """Where a worker starts reading, None where it never committed."""
        if self.committed is None or self.floor is None:
            return self.committed
        return min(self.committed, self.floor)


class Backup(NamedTuple):
    """A whole file."""

    origin: Origin
    parts: tuple[PartitionStates, ...]

    @property
    def states(self) -> int:
        return sum(len(part.states) for part in self.parts)


class BackupWriter:
    """Writes a backup; a context manager, whose end writes the hash. Left with an error, it leaves no file."""

    def __init__(self, path: Path | str, origin: Origin) -> None:
        self._path = Path(path)
        self._origin = origin
        self._hash = hashlib.blake2b(digest_size=_HASH_BYTES)

    def __enter__(self) -> Self:
        """Raises InputError when the file exists or cannot be made."""
        try:
            self._file: BinaryIO = self._path.open("xb")
        except FileExistsError:
            raise InputError(f"{self._path} exists already; a backup overwrites nothing") from None
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from None
        self._put(MAGIC + _frame(self._origin))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._put(self._hash.digest())
        finally:
            if error is not None:
                self._path.unlink(missing_ok=True)

    def write(self, part: PartitionStates) -> None:
        """Append the next partition. Raises InputError when the disk is full."""
        self._put(_frame(part))

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from None


def read_backup(path: Path | str) -> Backup:
    """A backup whose bytes are as they were written. Raises InputError for any other file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not data.startswith(MAGIC):
        raise InputError(f"{path} is no backup of states (python -m streamer state export makes them)")
    content, seal = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if hashlib.blake2b(content, digest_size=_HASH_BYTES).digest() != seal:
        raise InputError(f"{path} is damaged or cut off: its hash does not fit")
    try:
        frames = _frames(memoryview(content)[len(MAGIC) :])
        origin = msgspec.msgpack.decode(next(frames), type=Origin)
        parts = tuple(msgspec.msgpack.decode(frame, type=PartitionStates) for frame in frames)
    except (msgspec.DecodeError, struct.error, StopIteration) as error:
        raise InputError(f"{path} is no backup that this version reads: {error}") from None
    if [part.partition for part in parts] != list(range(origin.partitions)):
        raise InputError(f"{path} does not hold each of its {origin.partitions} partitions once, in order")
    return Backup(origin, parts)


def check_state(partition: int, key: bytes, data: bytes, model: str, layout: Layout) -> None:
    """Raises StateMismatch unless a state is whole, of this model and of the stream of its key."""
    where = f"state of {key.decode(errors='replace')!r} in partition {partition}"
    try:
        if snapshot.peek(data).kind == "mark":
            snapshot.load_mark(data)
            return
        stream = snapshot.load(data, model, layout)[0]
    except StateMismatch as mismatch:
        raise StateMismatch(f"{where}: {mismatch}") from mismatch
    if (stream.partition, stream.id.encode()) != (partition, key):
        raise StateMismatch(f"{where} is that of {stream.id!r} in partition {stream.partition}")


def _frame(content: object) -> bytes:
    body = msgspec.msgpack.encode(content)
    return _LENGTH.pack(len(body)) + body


def _frames(data: memoryview) -> Iterator[memoryview]:
    """The bodies of the frames; one that is cut off is given as it is and is then no MessagePack."""
    while data:
        (length,) = _LENGTH.unpack_from(data)
        yield data[_LENGTH.size : _LENGTH.size + length]
        data = data[_LENGTH.size + length :]
