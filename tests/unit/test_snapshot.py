"""A stream's state as bytes: what was saved comes back; whatever else comes is a StateMismatch, never another error."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import StateMismatch
from streamer.worker import snapshot
from streamer.worker.slots import HostState
from streamer.worker.snapshot import Header, Mark
from streamer.worker.stream import Stream

MODEL = "model-1@abc"
NUMERICS = "torch=2 AVX512 float32 batch=4 threads=1"
LAYOUT = {"h": ("float32", (2,)), "c": ("int16", (1, 3))}


def stream() -> Stream:
    return Stream(
        id="mic", key=b"mic", partition=3, first_offset=7, started_ms=1, task=None, position=9, last_offset=8,
        last_ms=5, session="s", replaced=("r",), expected_seq=4, holes=((1, 2),), rate_hz=8000, clock_samples=99,
        held=np.array([1.5, np.nan], np.float32).tobytes(),
    )  # fmt: skip


def leaves() -> dict[str, Any]:
    return {"h": np.array([np.float32(0.1), -0.0], np.float32), "c": np.array([[1, 2, 3]], np.int16)}


DATA = snapshot.dump(stream(), leaves(), [1, "two"], None, MODEL, NUMERICS)
MARK = snapshot.dump_mark(Mark(5, ("a", "b")), MODEL, NUMERICS)


def sealed(record: bytes) -> bytes:
    """A record under a hash that fits."""
    return record + hashlib.blake2b(record, digest_size=16).digest()


@pytest.mark.parametrize("compress", [False, True])
def test_a_state_comes_back_bit_for_bit(compress: bool) -> None:
    data = snapshot.dump(stream(), leaves(), [1, "two"], None, MODEL, compress=compress)
    back, task, resampler = snapshot.load(data, MODEL, LAYOUT)
    assert back.spilled is not None
    assert {n: a.tobytes() for n, a in back.spilled.items()} == {n: a.tobytes() for n, a in leaves().items()}
    assert (task, resampler) == ([1, "two"], None)
    assert back == stream()


def test_a_mark_comes_back() -> None:
    assert snapshot.load_mark(MARK) == Mark(5, ("a", "b"))


def test_a_header_tells_what_a_record_is_without_its_body() -> None:
    assert snapshot.peek(DATA) == Header(snapshot.LAYOUT, "state", MODEL, NUMERICS, 9, 5)
    assert snapshot.peek(MARK) == Header(snapshot.LAYOUT, "mark", MODEL, NUMERICS, 5, 0)
    assert snapshot.peek(DATA[:100] + bytes(len(DATA) - 100)) == snapshot.peek(DATA)


@given(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.text(max_size=9), st.text(max_size=9))
def test_a_header_holds_any_position_time_and_name(position: int, last_ms: int, model: str, numerics: str) -> None:
    data = snapshot.dump(replace(stream(), position=position, last_ms=last_ms), leaves(), None, None, model, numerics)
    assert snapshot.peek(data) == Header(snapshot.LAYOUT, "state", model, numerics, position, last_ms)
    back = snapshot.load(data, model, LAYOUT)[0]
    assert (back.position, back.last_ms) == (position, last_ms)


def test_a_time_beyond_64_bits_is_saved_as_the_latest_there_is() -> None:
    data = snapshot.dump(replace(stream(), last_ms=2**63 + 100), leaves(), None, None, MODEL)
    assert snapshot.load(data, MODEL, LAYOUT)[0].last_ms == 2**63 - 1


@pytest.mark.parametrize(("model", "layout"), [("model-2@abc", LAYOUT), (MODEL, {"h": ("float32", (3,))}), (MODEL, {})])
def test_another_model_or_layout_is_refused(model: str, layout: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    with pytest.raises(StateMismatch):
        snapshot.load(DATA, model, layout)


def test_a_state_of_other_numerics_is_refused_where_bits_must_go_on() -> None:
    assert snapshot.load(DATA, MODEL, LAYOUT, NUMERICS)[0] == stream()
    assert snapshot.load(DATA, MODEL, LAYOUT, None)[0] == stream()
    with pytest.raises(StateMismatch, match="last bits"):
        snapshot.load(DATA, MODEL, LAYOUT, "torch=3")


def test_neither_a_state_is_a_mark_nor_a_mark_a_state() -> None:
    with pytest.raises(StateMismatch, match="state lies where a mark is due"):
        snapshot.load_mark(DATA)
    with pytest.raises(StateMismatch, match="mark lies where a state is due"):
        snapshot.load(MARK, MODEL, LAYOUT)


def test_a_body_is_compressed_where_that_saves_a_tenth_and_nowhere_else() -> None:
    noise: HostState = {"h": np.random.default_rng(0).standard_normal(4000).astype(np.float32)}
    sparse: HostState = {"h": np.where(np.arange(4000) % 4, np.float32(0), noise["h"])}
    even: HostState = {"h": np.zeros(4000, np.float32)}  # unpacking it would take more than anything foreign may
    sizes = {}
    for name, state in (("noise", noise), ("sparse", sparse), ("even", even)):
        plain, small = (snapshot.dump(stream(), state, None, None, MODEL, compress=c) for c in (False, True))
        sizes[name] = len(small) / len(plain)
        assert snapshot.load(small, MODEL, {"h": ("float32", (4000,))})[0] == stream()
    assert sizes["noise"] == sizes["even"] == 1
    assert sizes["sparse"] < 0.5


@settings(max_examples=100)
@given(st.sampled_from([DATA, MARK]), st.data())
def test_a_flipped_bit_is_noticed(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StateMismatch):
        snapshot.load(bytes(damaged), MODEL, LAYOUT)
    with pytest.raises(StateMismatch):
        snapshot.load_mark(bytes(damaged))


@settings(max_examples=200)
@given(st.binary(max_size=100), st.booleans(), st.booleans())
def test_foreign_bytes_are_refused_even_under_a_right_hash(body: bytes, begins_right: bool, is_sealed: bool) -> None:
    record = DATA[:8] + body if begins_right else body
    data = sealed(record) if is_sealed else record
    with pytest.raises(StateMismatch):
        snapshot.load(data, MODEL, LAYOUT)


@settings(max_examples=200)
@given(st.binary(max_size=60), st.booleans())
def test_a_header_of_foreign_bytes_is_refused_or_one_that_fits_into_them(body: bytes, begins_right: bool) -> None:
    data = DATA[:8] + body if begins_right else body
    try:
        header = snapshot.peek(data)
    except StateMismatch:
        return
    assert header.layout in (2, 3)
    assert len(header.model.encode()) + len(header.numerics.encode()) < len(data)


def test_a_later_layout_is_refused_by_its_number() -> None:
    later = sealed(DATA[:4] + bytes([snapshot.LAYOUT + 1]) + DATA[5:-16])
    with pytest.raises(StateMismatch, match="has layout 4, this version reads 2 and 3"):
        snapshot.peek(later)
