"""A stream's whole state as bytes and back: host part, recurrent part, and the header that says whose it is.

Layout 3: a header (`streamer.worker.header`), a body, and a seal over both. The body is one MessagePack map: {host,
task, leaves} of a state, {sessions} of a mark; arrays are extension type 1 holding [dtype, shape, bytes]. A compressed
body is its plain length, four bytes little-endian, and a zlib stream. Layout 2, which is still read, is that map alone,
with {layout, model, position} in it and with position and last_ms among the host's fields. Foreign bytes are validated,
never trusted: whatever does not fit raises StateMismatch.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.errors import StateMismatch
from streamer.worker.header import LAYOUT, SEAL_BYTES, Header, Kind, is_sealed, open_record, pack, peek, seal_of
from streamer.worker.slots import HostState
from streamer.worker.stream import Stream
from streamer.worker.topics import STATE_RECORD_BYTES

__all__ = ["LAYOUT", "Header", "Mark", "check_writer", "dump", "dump_mark", "load", "load_mark", "peek"]

_ARRAY = 1
_DTYPES = {"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool"}
_IN_HEADER = ("position", "last_ms")
_NOT_SAVED = ("begun", "slot", "spilled", "task", "version", *_IN_HEADER)
_HOST_FIELDS = tuple(f.name for f in fields(Stream) if f.name not in _NOT_SAVED)
_INT64 = np.iinfo(np.int64)
_LENGTH = struct.Struct("<I")
_LARGEST_BODY = STATE_RECORD_BYTES
_FASTEST = 1
_WORTH, _BEYOND = 0.9, 16
"""A body is kept compressed if that makes it at most `_WORTH` of its size, and not below one `_BEYOND`th or from more
than `_LARGEST_BODY`: unpacking a foreign record takes no more memory than that, whatever it says."""


class Mark(NamedTuple):
    """A stream without state: it ended, or its records were refused. Everything below `position` is settled.

    sessions: those that are over, the latest last.
    """

    position: int
    sessions: tuple[str, ...] = ()


def _encode_array(obj: Any) -> Any:
    if isinstance(obj, np.ndarray):
        body = [str(obj.dtype), list(obj.shape), np.ascontiguousarray(obj).tobytes()]
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(body))
    if isinstance(obj, np.integer):
        return int(obj)
    if isinstance(obj, np.floating):
        return float(obj)
    raise TypeError(f"a state may not hold a {type(obj).__name__}")


def _decode_array(code: int, data: memoryview) -> NDArray[np.generic]:
    if code != _ARRAY:
        raise StateMismatch(f"saved state holds an unknown extension {code}")
    dtype, shape, raw = msgspec.msgpack.decode(data, type=tuple[str, list[int], bytes])
    if dtype not in _DTYPES or any(n < 0 for n in shape):
        raise StateMismatch(f"saved state holds an array of {dtype} {shape}")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
        raise StateMismatch(f"saved state holds {len(raw)} bytes for an array of {dtype} {shape}")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_decode_array)


def dump(
    stream: Stream,
    leaves: HostState | None,
    task: Any,
    resampler: Any,
    model: str,
    numerics: str = "",
    *,
    compress: bool = False,
) -> bytes:
    """The state of a stream that has stepped everything below `stream.position`.

    leaves: the recurrent state, None when fresh. task, resampler: plain data (numbers, strings, lists, maps, arrays).
    model: `name-version@fingerprint`; numerics: what the bits depend on besides (`Engine.numerics`). compress: keep the
    body compressed if that makes it smaller by a tenth.
    """
    host = {name: getattr(stream, name) for name in _HOST_FIELDS}
    host["resampler"] = resampler
    last_ms = min(max(stream.last_ms, int(_INT64.min)), int(_INT64.max))
    header = Header(LAYOUT, "state", model, numerics, stream.position, last_ms)
    return _seal(header, {"host": host, "task": task, "leaves": leaves}, compress)


def dump_mark(mark: Mark, model: str, numerics: str = "") -> bytes:
    """The mark of a stream without state. It holds nothing of a model: the tag only says who wrote it."""
    return _seal(Header(LAYOUT, "mark", model, numerics, mark.position, 0), {"sessions": mark.sessions}, False)


def _seal(header: Header, content: Mapping[str, Any], compress: bool) -> bytes:
    plain = _ENCODER.encode(content)
    small = _compressed(plain) if compress else None
    record = pack(header, compressed=small is not None) + (plain if small is None else small)
    return record + seal_of(record)


def _compressed(plain: bytes) -> bytes | None:
    """A body in less room, None where that is not worth it."""
    if len(plain) > _LARGEST_BODY:
        return None
    small = _LENGTH.pack(len(plain)) + zlib.compress(plain, _FASTEST)
    return small if len(plain) / _BEYOND <= len(small) <= _WORTH * len(plain) else None


def _unpacked(small: memoryview) -> bytes:
    """A compressed body as it was; never more than it says, nor than the largest that is made."""
    if len(small) < _LENGTH.size:
        raise StateMismatch("saved state has a compressed body that is cut off")
    (length,) = _LENGTH.unpack_from(small)
    if not 0 < length <= min(_LARGEST_BODY, _BEYOND * len(small)):
        raise StateMismatch(f"saved state says that its body has {length} bytes")
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(small[_LENGTH.size :], length)
    except zlib.error as error:
        raise StateMismatch(f"saved state has a compressed body that is damaged: {error}") from error
    if len(plain) != length or not stream.eof or stream.unused_data:
        raise StateMismatch(f"saved state has a compressed body that is not of the {length} bytes it says")
    return plain


def load(
    data: bytes, model: str, layout: Mapping[str, tuple[str, tuple[int, ...]]], numerics: str | None = None
) -> tuple[Stream, Any, Any]:
    """The stream of a state, with its task's and its resampler's plain data.

    model: what must have written it; layout: leaf name to (dtype, shape), what the pool holds; numerics: what it must
    have been computed with, None where its bits need not go on exactly. Raises StateMismatch.
    """
    header, content = _open(data, "state")
    check_writer(header, model, numerics)
    stream = _host_of(header, content)
    stream.spilled = _leaves_of(content.get("leaves"), layout)
    return stream, content.get("task"), content["host"].get("resampler")


def load_host(data: bytes) -> tuple[Stream, Any]:
    """The stream of a state whichever model wrote it, without its recurrent state, and its task's plain data.

    Raises StateMismatch for what no version can have written.
    """
    header, content = _open(data, "state")
    return _host_of(header, content), content.get("task")


def load_mark(data: bytes) -> Mark:
    """The mark in a record, whichever model wrote it. Raises StateMismatch."""
    header, content = _open(data, "mark")
    sessions = content.get("sessions")
    if not isinstance(sessions, list) or not all(isinstance(s, str) for s in sessions):
        raise StateMismatch("saved mark does not hold the names of sessions")
    return Mark(header.position, tuple(sessions))


def check_writer(header: Header, model: str, numerics: str | None) -> None:
    """Raises StateMismatch unless a state was written by this model, where it matters with these numerics.

    Layout 2 does not tell its numerics and is taken for the same.
    """
    if header.model != model:
        raise StateMismatch(f"saved state belongs to model {header.model!r}, this is {model!r}")
    if numerics is not None and header.layout == LAYOUT and header.numerics != numerics:
        raise StateMismatch(
            f"saved state was computed with {header.numerics!r}, this engine has {numerics!r}: deterministic results "
            "would differ in their last bits"
        )


def _open(data: bytes, kind: Kind) -> tuple[Header, dict[str, Any]]:
    """A record whose seal fits: its header and its content."""
    opened = open_record(data)
    if opened.header.kind != kind:
        raise StateMismatch(f"saved {opened.header.kind} lies where a {kind} is due")
    if not is_sealed(data):
        raise StateMismatch(f"saved state of {len(data)} bytes is damaged: its hash does not fit")
    kept = memoryview(data)[opened.body : -SEAL_BYTES]
    body = _unpacked(kept) if opened.compressed else kept
    try:
        content = _DECODER.decode(body)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:  # a map may hold a key that is none
        raise StateMismatch(f"saved state is not MessagePack: {error}") from error
    if not isinstance(content, dict):
        raise StateMismatch("saved state is not a map")
    return opened.header, content


def _host_of(header: Header, content: dict[str, Any]) -> Stream:
    host = content.get("host")
    if not isinstance(host, dict):
        raise StateMismatch("saved state has no host fields")
    if header.layout == LAYOUT:
        host = {**host, "position": header.position, "last_ms": header.last_ms}
    return _stream_of(host)


def _stream_of(host: dict[str, Any]) -> Stream:
    if set(host) != {*_HOST_FIELDS, *_IN_HEADER}:
        raise StateMismatch("saved state has other host fields than this version")
    values = dict(host)
    try:
        typed = msgspec.convert({n: values[n] for n in _CHECKED}, type=_Checked)
    except msgspec.ValidationError as error:
        raise StateMismatch(f"saved state: {error}") from error
    values.update(msgspec.structs.asdict(typed))
    if len(typed.held or b"") % np.dtype(np.float32).itemsize:
        raise StateMismatch("saved state holds no row of column values where one is due")
    values["resampler"] = None
    return Stream(task=None, **values)


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Checked(msgspec.Struct):
    id: str
    key: bytes | None
    replaced: tuple[str, ...]
    holes: tuple[tuple[int, int], ...]
    partition: _Count
    first_offset: _Count
    started_ms: int
    position: _Count
    last_offset: int
    last_ms: int
    session: str | None
    expected_seq: int | None
    expected_sample: int | None
    rate_hz: _Count
    clock_samples: _Count
    held: bytes | None


_CHECKED = _Checked.__struct_fields__
msgspec.json.Decoder(_Checked)
"""msgspec 0.22 learns the fields when it is first asked to; two threads that ask at once, as the engines of two
pipelines do, crash the process."""


def _leaves_of(leaves: Any, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> HostState | None:
    if leaves is None:
        return None
    have = (
        {n: (str(a.dtype), a.shape) if isinstance(a, np.ndarray) else None for n, a in leaves.items()}
        if isinstance(leaves, dict)
        else None
    )
    if have != dict(layout):
        raise StateMismatch(f"saved recurrent state is {have}, the model wants {dict(layout)}")
    return dict(leaves)
