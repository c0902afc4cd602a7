"""Predictions as columns: the records that the ordinary encoder makes, byte for byte, and what it alone can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.codecs.messages import Encoder, Output, PlainPredictions, Prediction, iso_time
from streamer.codecs.prediction_columns import PredictionColumns
from streamer.records import NewRecord, Record

ENCODER = Encoder("app/group/pipeline/live", "model-1@abc")
COLUMNS = PredictionColumns(ENCODER)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
STREAM = st.tuples(NAME, st.binary(max_size=6), st.binary(max_size=6))
CAUSE = st.tuples(
    st.integers(0, 4), st.integers(0, 99), st.integers(0, 2**62), st.integers(-62_135_596_800_000, 253_402_300_799_999)
)
FLOAT = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-45, 3.4028234663852886e38, 0.1, 1e16, 1e-5, 123456.7])


def plain(
    streams: Sequence[tuple[str, bytes, bytes]],
    causes: Sequence[tuple[int, int, int, int]],
    outputs: Mapping[str, NDArray[np.generic]],
) -> PlainPredictions:
    ids, keys, subjects = zip(*streams, strict=True)
    owner, partitions, offsets, times_ms = np.array(causes, np.int64).T.copy()
    return PlainPredictions("in put", ids, keys, subjects, owner % len(ids), partitions, offsets, times_ms, outputs)


def one_by_one(said: PlainPredictions) -> list[NewRecord]:
    """The same predictions through the ordinary encoder."""
    messages = []
    for i, stream in enumerate(said.owner.tolist()):
        time_ms = int(said.times_ms[i])
        values = {name: leaf[i].tolist() for name, leaf in said.outputs.items()}
        body = Prediction(said.ids[stream], iso_time(time_ms), outputs=values)
        cause = Record(
            said.topic, int(said.partitions[i]), int(said.offsets[i]), 0, said.subjects[stream] or None, b"", ()
        )
        messages.append((Output(body, said.keys[stream], "prediction", 0, time_ms, False), cause))
    return ENCODER.encode_all(messages)


@settings(max_examples=200, deadline=None)
@given(st.lists(STREAM, min_size=1, max_size=4), st.lists(CAUSE, min_size=1, max_size=12), st.data())
def test_a_step_encoded_at_once_is_what_its_messages_are_one_by_one(
    streams: list[tuple[str, bytes, bytes]], causes: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    names = data.draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    kind = data.draw(st.sampled_from([np.float32, np.float64, np.int64]))
    values = FLOAT if kind != np.int64 else st.integers(-(2**53), 2**53)
    outputs: dict[str, NDArray[np.generic]] = {}
    for name in names:
        width = data.draw(st.integers(0, 3))
        rows = st.lists(st.lists(values, min_size=width, max_size=width), min_size=len(causes), max_size=len(causes))
        outputs[name] = np.array(data.draw(rows), kind).reshape(len(causes), width)
    said = plain(streams, causes, outputs)
    encoded = COLUMNS.encode(said)
    assert encoded is not None
    assert list(encoded) == one_by_one(said)


def test_some_of_the_records_are_taken_in_the_order_asked_for() -> None:
    said = plain([("a", b"a", b"a")], [(0, 0, i, 1000 * i) for i in range(4)], {"y": np.arange(4.0)[:, None]})
    encoded = COLUMNS.encode(said)
    assert encoded is not None
    expected = one_by_one(said)
    assert list(encoded.take(np.array([2, 0]))) == [expected[2], expected[0]]
    assert encoded[-1] == expected[3]
    assert encoded[1:3] == expected[1:3]


@pytest.mark.parametrize("time_ms", [-62_135_596_800_001, 253_402_300_800_000])
def test_times_that_no_calendar_holds_are_left_to_the_ordinary_encoder(time_ms: int) -> None:
    assert COLUMNS.encode(plain([("a", b"", b"")], [(0, 0, 0, time_ms)], {"y": np.zeros((1, 1))})) is None


def test_outputs_of_different_types_are_left_to_the_ordinary_encoder() -> None:
    outputs = {"y": np.zeros((1, 1)), "label": np.zeros((1, 1), np.int64)}
    assert COLUMNS.encode(plain([("a", b"", b"")], [(0, 0, 0, 0)], outputs)) is None
