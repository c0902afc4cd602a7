"""Messages as one line of text for people, or as one JSON object a line for machines."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from streamer.codecs.messages import (
    Alert,
    Body,
    DeadLetter,
    Envelope,
    FinalTranscript,
    PartialTranscript,
    Prediction,
    StreamEvent,
    VoicedAudio,
    decode,
    iso_time,
)
from streamer.records import Record


def text_of(body: Body) -> str:
    """A message in one line, led by its stream."""
    match body:
        case PartialTranscript():
            return f"{safe(body.stream)}  … {body.text}"
        case FinalTranscript():
            return f"{safe(body.stream)}  [{body.start_s:.1f}-{body.end_s:.1f} s]  {body.text}"
        case Prediction():
            return f"{safe(body.stream)}  {body.time}  {_reading(body)}"
        case Alert():
            sign = "ALERT" if body.status == "firing" else "over "
            reason = f"  {safe(body.reason)}" if body.reason else ""
            return f"{safe(body.stream)}  {body.time}  {sign} {body.severity}  {_reading(body)}{reason}"
        case StreamEvent():
            size = f" of {body.samples} samples" if body.samples else ""
            reason = f": {safe(body.reason)}" if body.reason else ""
            return f"{safe(body.stream)}  {body.time}  {body.event}{size}{reason}"
        case VoicedAudio():
            return f"{safe(body.stream)}  voiced: {len(body.pcm) // 2} samples at {body.sample_index}"
        case DeadLetter():
            return f"{body.topic}/{body.partition}/{body.offset}  dead letter: {safe(body.reason)}"


def json_of(envelope: Envelope) -> dict[str, Any]:
    """A message with its id and type as plain data."""
    content: dict[str, Any] = msgspec.to_builtins(envelope.body)
    return {"id": envelope.id, "type": envelope.type, "time": envelope.time, "model": envelope.model, **content}


def record_text(record: Record) -> str:
    """Any record in one line: our messages by their meaning, others by their coordinates and size."""
    envelope = _understood(record)
    if envelope is not None:
        return text_of(envelope.body)
    key = safe((record.key or b"").decode(errors="replace"))
    return f"{record.coordinates}  {iso_time(record.timestamp_ms)}  {key}  {_value_text(record)}"


def record_json(record: Record) -> dict[str, Any]:
    """Any record as plain data; bytes that are no text are given in base64."""
    envelope = _understood(record)
    if envelope is not None:
        return json_of(envelope)
    return {
        "coordinates": record.coordinates,
        "timestamp_ms": record.timestamp_ms,
        "key": _bytes_json(record.key),
        "headers": [[name, _bytes_json(value)] for name, value in record.headers],
        "value": _bytes_json(record.value),
    }


def safe(text: str) -> str:
    """`text` without characters that could move a terminal's cursor or colour it."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _reading(body: Prediction | Alert) -> str:
    parts = [] if body.value is None else [f"value {body.value:.6g}"]
    if body.low is not None and body.high is not None:
        parts.append(f"expected {body.low:.6g} to {body.high:.6g}")
    if body.score is not None:
        parts.append(f"score {body.score:.3f}")
    return ", ".join(parts)


def _understood(record: Record) -> Envelope | None:
    try:
        return decode(record)
    except (msgspec.DecodeError, KeyError, ValueError):
        return None


def _value_text(record: Record) -> str:
    if record.value is None:
        return "tombstone"
    text = _text(record.value)
    return f"{len(record.value)} bytes" if text is None or len(text) > 300 else safe(text)


def _bytes_json(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    text = _text(value)
    return {"base64": base64.b64encode(value).decode()} if text is None else text


def _text(value: bytes) -> str | None:
    """Bytes as text, None where they are none: sound is at times valid UTF-8 by accident."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c in "\t\r\n" for c in text) else None
