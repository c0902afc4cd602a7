"""Whatever lies in a changelog is taken in as a stream that can go on, or it is a StateMismatch: nothing else.

What is changed is the golden state: a stream of sound with a resampler, in the middle of a beam search.
"""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bundle import wrap
from streamer.codecs.base import Decoded
from streamer.errors import StateMismatch
from streamer.tasks.base import TaskBatch
from streamer.worker import snapshot
from streamer.worker.header import Header, open_record, pack
from streamer.worker.results import StreamKey
from streamer.worker.reviving import revive
from streamer.worker.stream import Stream
from streamer.worker.version import Version
from streamer.worker.worker import version_of
from tests.golden.state_stream import Speller, options, task

KEY = StreamKey(0, "mic")
OLDER = (Path(__file__).parents[1] / "golden/states/state-layout-2.bin").read_bytes()
ROOM = 300_000
"""Bytes that reading a record may take beside a share of its own: objects, an error's text."""
SHARE = 40
"""So many times its own size a record may take, all in all: a MessagePack nil of one byte is eight in a list."""
ARRAY = 1


@cache
def version() -> Version:
    return version_of(options(), "fuzz", 1_000_000, wrap(Speller(), name="model"), task())


def dumped(stream: Stream, *, compress: bool = False) -> bytes:
    saved = version().task.dump(stream.task)
    resampler = None if stream.resampler is None else stream.resampler.to_arrays()
    return snapshot.dump(stream, stream.spilled, saved, resampler, version().model, compress=compress)


@cache
def record(compress: bool = False) -> bytes:
    """The golden state in this version's layout."""
    return dumped(revive(KEY, OLDER, version()), compress=compress)


def resealed(body: bytes, *, compressed: bool = False, header: Header | None = None) -> bytes:
    """The record with another body, under a hash that fits."""
    data = pack(header or snapshot.peek(record()), compressed=compressed) + body
    return data + hashlib.blake2b(data, digest_size=16).digest()


def body() -> bytes:
    return record()[open_record(record()).body : -16]


def taken(data: bytes) -> Stream | None:
    """The stream if a record is taken in, None if it is refused. Either way its memory is bounded."""
    version(), record()
    tracemalloc.start()
    try:
        return revive(KEY, data, version())
    except StateMismatch:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < SHARE * len(data) + ROOM


def test_the_state_itself_is_taken_whether_compressed_or_not() -> None:
    for compress in (False, True):
        stream = taken(record(compress))
        assert stream is not None
        assert dumped(stream) == record()
    assert open_record(record(True)).compressed


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "double"]), st.integers(0, 2**20), st.binary(min_size=1, max_size=8)
    ),
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, put in changes:
        at = where % (len(data) + 1)
        if kind == "flip":
            data = data[:at] + bytes(b ^ p for b, p in zip(data[at:], put, strict=False)) + data[at + len(put) :]
        elif kind == "cut":
            data = data[:at] + data[at + len(put) ** 3 :]
        elif kind == "insert":
            data = data[:at] + put + data[at:]
        else:
            data = data[:at] + data[max(0, at - len(put) ** 2) :]
    return data


@settings(deadline=None, max_examples=300)
@given(CHANGES, st.booleans(), st.booleans())
def test_bytes_changed_anywhere_give_the_same_state_or_none(
    changes: list[tuple[str, int, bytes]], compress: bool, older: bool
) -> None:
    before = OLDER if older else record(compress)
    after = changed(before, changes)
    stream = taken(after)
    assert (stream is not None) == (after == before)
    if stream is not None:
        assert dumped(stream) == record()


@settings(deadline=None, max_examples=500)
@given(CHANGES, st.booleans())
def test_bytes_changed_under_a_right_hash_are_a_stream_or_none(
    changes: list[tuple[str, int, bytes]], older: bool
) -> None:
    if older:
        data = changed(OLDER[:-16], changes)
        goes_on(taken(data + hashlib.blake2b(data, digest_size=16).digest()))
    else:
        goes_on(taken(resealed(changed(body(), changes))))


@settings(deadline=None, max_examples=200)
@given(CHANGES)
def test_a_compressed_body_that_was_changed_under_a_right_hash_is_a_stream_or_none(
    changes: list[tuple[str, int, bytes]],
) -> None:
    packed = record(True)[open_record(record(True)).body : -16]
    goes_on(taken(resealed(changed(packed, changes), compressed=True)))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_position_and_time_in_a_header_is_taken_for_what_it_says(position: int, last_ms: int) -> None:
    header = snapshot.peek(record())._replace(position=position, last_ms=last_ms)
    stream = taken(resealed(body(), header=header))
    assert stream is not None
    assert (stream.position, stream.last_ms) == (position, last_ms)


ARRAYS = st.builds(
    lambda dtype, shape: np.zeros(shape, dtype),
    st.sampled_from(["float32", "float64", "int8", "int64", "bool"]),
    st.lists(st.integers(0, 3), max_size=3),
)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-3, 40) | st.floats()
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.binary(max_size=9) | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for name, part in inner for place in places(part, (*at, name)))]


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    parts = dict(value) if isinstance(value, dict) else list(value)
    parts[at[0]] = replaced(value[at[0]], at[1:], new)
    return parts


def goes_on(stream: Stream | None) -> None:
    """What was taken goes on: its sound through the resampler, the network and the search, and into a state again."""
    if stream is None:
        return
    version().residence.bring([(KEY, stream)])
    tone = np.full((800, 1), 0.3, np.float32)
    sound = version().conversion.samples(stream, Decoded("mic", 0, tone, stream.rate_hz), 0)
    stepped = version().engine.step(np.array([stream.slot], np.int64), [sound])
    if not stepped.failed:  # else the stepper would begin the stream afresh
        batch = TaskBatch([stream], [stream.position], [0], [sound], stepped.outputs, stepped.lengths)
        stream.task = version().task.advance(batch)[0][0]
    stream.spilled = version().residence.states([stream])[0]
    assert snapshot.peek(dumped(stream)).position == stream.position
    version().task.finish(stream)
    version().task.restart(stream)
    version().residence.leave(KEY, stream)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_any_value_inside_replaced_by_another_makes_a_stream_or_none(data: st.DataObject) -> None:
    content = snapshot._DECODER.decode(body())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(content)))
        content = replaced(content, at, data.draw(JUNK))
    goes_on(taken(resealed(snapshot._ENCODER.encode(content))))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_numbers_inside_the_arrays_make_a_stream_or_none(data: st.DataObject) -> None:
    content = snapshot._DECODER.decode(body())
    arrays = [at for at in places(content) if isinstance(_value(content, at), np.ndarray)]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(arrays))
        content = replaced(content, at, _with_number(_value(content, at), data))
    goes_on(taken(resealed(snapshot._ENCODER.encode(content))))


def _value(content: Any, at: tuple[Any, ...]) -> Any:
    for name in at:
        content = content[name]
    return content


def _with_number(array: NDArray[Any], data: st.DataObject) -> NDArray[Any]:
    changed = array.copy().reshape(-1)
    whole = np.iinfo(array.dtype) if array.dtype.kind == "i" else None
    numbers = st.integers(whole.min, whole.max) | st.integers(-3, 40) if whole else st.floats(width=32)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(numbers)
    return changed.reshape(array.shape)


HUGE = [
    b"\xdd\xff\xff\xff\xff",  # a list of 2^32 - 1 values
    b"\xdf\xff\xff\xff\xff",  # a map
    b"\xdb\xff\xff\xff\xff",  # a text
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\xc9\xff\xff\xff\xff\x01",  # an array
    b"\x81\xa4host" + b"\x91" * 100_000,  # lists in lists
]


@pytest.mark.parametrize("begin", HUGE)
def test_a_value_that_says_it_is_huge_takes_no_memory(begin: bytes) -> None:
    assert taken(resealed(begin)) is None
    assert taken(resealed(begin + bytes(1000))) is None


@pytest.mark.parametrize(
    "shape", [[2**62, 4], [2**32, 2**32], [2**63 - 1, 0], [2**64, 0], [-1, -1], [0] * 70, [1] * 70, [2**40]]
)
def test_an_array_whose_shape_does_not_fit_its_bytes_is_refused(shape: list[int]) -> None:
    content = snapshot._DECODER.decode(body())
    raw = msgspec.msgpack.encode(
        ["float32", [n if n < 2**64 else n - 1 for n in shape], b"\0" * 4 if 1 in shape else b""]
    )
    content["leaves"]["level"] = msgspec.msgpack.Ext(ARRAY, raw)
    assert taken(resealed(snapshot._ENCODER.encode(content))) is None


@pytest.mark.parametrize("says", [0, 1, 50_000, 8_000_000, 2**32 - 1])
def test_a_body_that_unpacks_to_more_than_it_says_is_not_unpacked(says: int) -> None:
    bomb = struct.pack("<I", says) + zlib.compress(bytes(50_000_000), 9)
    assert taken(resealed(bomb, compressed=True)) is None
