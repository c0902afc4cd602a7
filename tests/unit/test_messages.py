"""Messages: what is encoded is what is read, under an id that depends on the input alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.codecs.messages import (
    Alert,
    Body,
    Encoder,
    FinalTranscript,
    Output,
    PartialTranscript,
    Prediction,
    StreamEvent,
    Word,
    decode,
    iso_time,
)
from streamer.records import Record

ENCODER = Encoder("app/group/pipeline/live", "model-1@abc")
CAUSE = Record("input", 2, 41, 5, "Straße".encode(), b"", ())
BODIES: list[Body] = [
    PartialTranscript("s", 1, 41, "so far", 0.5, 1.0),
    FinalTranscript("s", 1, "so far", 0.5, 1.0, 0.9, (Word("so", 0.5, 0.7, 0.8), Word("far", 0.7, 1.0, 1.0))),
    Prediction("s", iso_time(5), value=1.5, expected=1.0, low=0.0, high=2.0, score=0.25, outputs={"y": [1.0]}),
    Prediction("s", iso_time(5)),
    Alert("s/41", "s", "firing", "warning", iso_time(5), 0.9, reason="above"),
    StreamEvent("s", "gap", iso_time(5), "lost", 3),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_message_comes_back_with_its_attributes(body: Body) -> None:
    cause = CAUSE._replace(headers=(("traceparent", b"00-1"), ("secret", b"1")))
    sent = ENCODER.encode(Output(body, b"key", "kind", 3, 5, False), cause, {"traceparent"})
    back = decode(Record("out", 0, 0, 5, sent.key, sent.value, sent.headers))
    assert back.body == body
    assert (back.id, back.source, back.subject) == ("input/2/41/kind/3", "app/group/pipeline/live", "Straße")
    assert (back.time, back.model) == ("1970-01-01T00:00:00.005Z", "model-1@abc")
    assert ("traceparent", b"00-1") in sent.headers
    assert "secret" not in dict(sent.headers)
    assert isinstance(json.loads(sent.value or b""), dict)


@given(st.integers(-(2**63), 2**63))
def test_any_time_can_be_written(time_ms: int) -> None:
    assert iso_time(time_ms).endswith("Z")
