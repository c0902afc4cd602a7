"""The published AsyncAPI document is the code's own, and real messages keep its schemas."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from streamer.codecs.messages import Alert, Body, FinalTranscript, PartialTranscript, Prediction, StreamEvent, Word
from streamer.codecs.schemas import asyncapi

DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.json"
EXAMPLES: list[Body] = [
    PartialTranscript("mic", 0, 12, "turn the", 0.1, 0.5),
    FinalTranscript("mic", 0, "turn", 0.1, 0.4, 0.9, (Word("turn", 0.1, 0.4, 0.9),)),
    Prediction("pump", "2026-01-01T00:00:00.000Z", 1.0, 1.1, 0.9, 1.2, 0.0, {"next": [0.9, 1.0]}),
    Prediction("pump", "2026-01-01T00:00:00.000Z"),
    Alert("pump/1", "pump", "firing", "warning", "2026-01-01T00:00:00.000Z", 0.9),
    StreamEvent("pump", "gap", "2026-01-01T00:00:00.000Z", samples=3),
]


def test_the_document_in_docs_is_what_the_code_generates() -> None:
    assert json.loads(DOCUMENT.read_text(encoding="utf-8")) == asyncapi()


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: type(body).__name__)
def test_a_message_keeps_its_schema(body: Body) -> None:
    schema = {"$ref": f"#/components/schemas/{type(body).__name__}", **asyncapi()}
    jsonschema.validate(json.loads(msgspec.json.encode(body)), schema)


def test_the_schema_refuses_what_no_message_is() -> None:
    schema = {"$ref": "#/components/schemas/Alert", **asyncapi()}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"id": "x", "status": "burning"}, schema)
