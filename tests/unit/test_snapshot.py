"""A stream's state as bytes: what was saved comes back; whatever else comes is a StateMismatch, never another error."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import StateMismatch
from streamer.worker import snapshot
from streamer.worker.snapshot import Mark
from streamer.worker.stream import Stream

MODEL = "model-1@abc"
LAYOUT = {"h": ("float32", (2,)), "c": ("int16", (1, 3))}


def stream() -> Stream:
    return Stream(
        id="mic", key=b"mic", partition=3, first_offset=7, started_ms=1, task=None, position=9, last_offset=8,
        last_ms=5, session="s", replaced=("r",), expected_seq=4, holes=((1, 2),), rate_hz=8000, clock_samples=99,
        held=np.array([1.5, np.nan], np.float32).tobytes(),
    )  # fmt: skip


def leaves() -> dict[str, Any]:
    return {"h": np.array([np.float32(0.1), -0.0], np.float32), "c": np.array([[1, 2, 3]], np.int16)}


DATA = snapshot.dump(stream(), leaves(), [1, "two"], None, MODEL)


def test_a_state_comes_back_bit_for_bit() -> None:
    restored, task, resampler = snapshot.load(DATA, MODEL, LAYOUT)
    back = restored.stream
    assert back is not None
    assert back.spilled is not None
    assert {n: a.tobytes() for n, a in back.spilled.items()} == {n: a.tobytes() for n, a in leaves().items()}
    assert (task, resampler, restored.mark.position) == ([1, "two"], None, 9)
    assert back == stream()


def test_a_mark_comes_back() -> None:
    restored, _, _ = snapshot.load(snapshot.dump_mark(Mark(5, ("a", "b")), MODEL), MODEL, LAYOUT)
    assert (restored.mark, restored.stream) == (Mark(5, ("a", "b")), None)


@pytest.mark.parametrize(("model", "layout"), [("model-2@abc", LAYOUT), (MODEL, {"h": ("float32", (3,))}), (MODEL, {})])
def test_another_model_or_layout_is_refused(model: str, layout: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    with pytest.raises(StateMismatch):
        snapshot.load(DATA, model, layout)


@settings(max_examples=100)
@given(st.integers(0, len(DATA) * 8 - 1))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StateMismatch):
        snapshot.load(bytes(damaged), MODEL, LAYOUT)


@settings(max_examples=100)
@given(st.binary(max_size=100), st.booleans())
def test_foreign_bytes_are_refused_even_under_a_right_hash(body: bytes, sealed: bool) -> None:
    data = body + hashlib.blake2b(body, digest_size=16).digest() if sealed else body
    with pytest.raises(StateMismatch):
        snapshot.load(data, MODEL, LAYOUT)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.binary(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
HOST = tuple(snapshot._HOST_FIELDS)


def sealed(content: object) -> bytes:
    body = msgspec.msgpack.encode(content)
    return body + hashlib.blake2b(body, digest_size=16).digest()


@settings(max_examples=200)
@given(st.sampled_from(HOST), JUNK)
def test_a_host_field_of_another_kind_is_refused_or_taken_as_it_is(field: str, junk: object) -> None:
    host: dict[str, Any] = {n: getattr(stream(), n) for n in HOST} | {"held": None, field: junk}
    data = sealed(
        {"layout": snapshot.LAYOUT, "model": MODEL, "position": 9, "host": host, "task": None, "leaves": None}
    )
    try:
        restored, _, _ = snapshot.load(data, MODEL, LAYOUT)
    except StateMismatch:
        return
    assert restored.stream is not None
    assert isinstance(restored.stream.replaced, tuple)
    assert isinstance(restored.stream.key, bytes | None)
    assert isinstance(restored.stream.held, bytes | None)
