"""A stream's whole state as bytes and back: host part, recurrent part, and the header that says whose it is.

Layout 2: MessagePack map {layout, model, position, host, leaves}; arrays are extension type 1 holding
[dtype, shape, bytes]; the last 16 bytes are a BLAKE2b hash of all before. Foreign bytes are validated, never trusted:
whatever does not fit raises StateMismatch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.errors import StateMismatch
from streamer.worker.slots import HostState
from streamer.worker.stream import Stream

LAYOUT = 2
_HASH_BYTES = 16
_ARRAY = 1
_DTYPES = {"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool"}
_HOST_FIELDS = tuple(f.name for f in fields(Stream) if f.name not in ("begun", "slot", "spilled", "task"))


class Mark(NamedTuple):
    """A stream without state: it ended, or its records were refused. Everything below `position` is settled.

    sessions: those that are over, the latest last.
    """

    position: int
    sessions: tuple[str, ...] = ()


class Snapshot(NamedTuple):
    """A restored state: a stream that contains everything below the mark's position, or the mark alone."""

    mark: Mark
    stream: Stream | None


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
    if int(np.prod(shape)) * np.dtype(dtype).itemsize != len(raw):
        raise StateMismatch(f"saved state holds {len(raw)} bytes for an array of {dtype} {shape}")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_decode_array)


def dump(stream: Stream, leaves: HostState | None, task: Any, resampler: Any, model: str) -> bytes:
    """The state of a stream that has stepped everything below `stream.position`.

    leaves: the recurrent state, None when fresh. task, resampler: plain data (numbers, strings, lists, maps, arrays).
    model: `name-version@fingerprint`.
    """
    host = {name: getattr(stream, name) for name in _HOST_FIELDS}
    host["resampler"] = resampler
    content = {
        "layout": LAYOUT,
        "model": model,
        "position": stream.position,
        "host": host,
        "task": task,
        "leaves": leaves,
    }
    return _seal(_ENCODER.encode(content))


def dump_mark(mark: Mark, model: str) -> bytes:
    """The mark of a stream without state."""
    content = {"layout": LAYOUT, "model": model, "position": mark.position, "sessions": mark.sessions, "host": None}
    return _seal(_ENCODER.encode(content))


def _seal(body: bytes) -> bytes:
    return body + hashlib.blake2b(body, digest_size=_HASH_BYTES).digest()


def load(data: bytes, model: str, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[Snapshot, Any, Any]:
    """The snapshot with its task's and its resampler's plain data.

    model: what must have written it; layout: leaf name to (dtype, shape), what the pool holds. Raises StateMismatch.
    """
    content = _open(data)
    if content.get("layout") != LAYOUT:
        raise StateMismatch(f"saved state has layout {content.get('layout')!r}, this version reads {LAYOUT}")
    if content.get("model") != model:
        raise StateMismatch(f"saved state belongs to model {content.get('model')!r}, this is {model!r}")
    position = content.get("position")
    if not isinstance(position, int) or position < 0:
        raise StateMismatch(f"saved state has position {position!r}")
    host = content.get("host")
    if host is None:
        sessions = content.get("sessions")
        if not isinstance(sessions, list) or not all(isinstance(s, str) for s in sessions):
            raise StateMismatch(f"saved mark has sessions {sessions!r}")
        return Snapshot(Mark(position, tuple(sessions)), None), None, None
    stream = _stream_of(host)
    stream.spilled = _leaves_of(content.get("leaves"), layout)
    return Snapshot(Mark(position), stream), content.get("task"), host.get("resampler")


def _open(data: bytes) -> dict[str, Any]:
    body, seal = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() != seal:
        raise StateMismatch(f"saved state of {len(data)} bytes is damaged: its hash does not fit")
    try:
        content = _DECODER.decode(body)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:  # a map may hold a key that is none
        raise StateMismatch(f"saved state is not MessagePack: {error}") from error
    if not isinstance(content, dict):
        raise StateMismatch("saved state is not a map")
    return content


def _stream_of(host: Any) -> Stream:
    if not isinstance(host, dict) or set(host) != set(_HOST_FIELDS):
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


class _Checked(msgspec.Struct):
    id: str
    key: bytes | None
    replaced: tuple[str, ...]
    holes: tuple[tuple[int, int], ...]
    partition: int
    first_offset: int
    started_ms: int
    position: int
    last_offset: int
    last_ms: int
    session: str | None
    expected_seq: int | None
    expected_sample: int | None
    rate_hz: int
    clock_samples: int
    held: bytes | None


_CHECKED = _Checked.__struct_fields__


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
