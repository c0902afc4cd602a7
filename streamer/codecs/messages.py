"""What streamer says: typed outputs and their CloudEvents 1.0 form (Kafka binary mode).

`ce_id` is `topic/partition/offset/kind/n`: it depends on the input alone, so that a subscriber can drop duplicates.
Source: CloudEvents 1.0 Kafka protocol binding, section 3.2.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
from numpy.typing import NDArray

from streamer.columns import Numbers
from streamer.records import NewRecord, Record, make_new_record

Role = Literal["transcripts", "predictions", "alerts", "streams", "deadletters", "voiced"]
"""Which of a pipeline's output topics a message goes to."""


class Word(msgspec.Struct, frozen=True):
    """A word with its place in the stream, in seconds from the stream's first sample; confidence in [0, 1]."""

    text: str
    start_s: float
    end_s: float
    confidence: float


class PartialTranscript(msgspec.Struct, frozen=True):
    """The words of a segment as heard so far; superseded by the next partial and by the segment's final."""

    stream: str
    segment: int
    revision: int
    text: str
    start_s: float
    end_s: float


class FinalTranscript(msgspec.Struct, frozen=True):
    """The words of a finished segment."""

    stream: str
    segment: int
    text: str
    start_s: float
    end_s: float
    confidence: float
    words: tuple[Word, ...]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a model says of one input record.

    value: what was observed (None when missing). expected: the median that had been predicted for it; low, high: the
    predicted band; score: anomaly score in [0, 1]; next: the predicted quantiles of the next value. Models that
    predict other things use `outputs`.
    """

    stream: str
    time: str
    value: float | None = None
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    score: float | None = None
    outputs: dict[str, list[float]] | None = None


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alert that starts or stops. `id` is the same for a firing and its resolving."""

    id: str
    stream: str
    status: Literal["firing", "resolved"]
    severity: str
    time: str
    score: float
    value: float | None = None
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class StreamEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What befell a stream: started, gap, reset, model_changed or ended. `samples` is the size of a gap."""

    stream: str
    event: Literal["started", "gap", "reset", "model_changed", "ended"]
    time: str
    reason: str = ""
    samples: int = 0


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that could not be used. Its value, key and headers are the original's; this goes into the headers.

    When the original is too big for the topic, the value is this struct as JSON, with `length` and `sha256` of the
    original and `spill`, the file it was written to.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    length: int = 0
    sha256: str = ""
    spill: str = ""


class VoicedAudio(msgspec.Struct, frozen=True):
    """A part of a stream in which somebody speaks: s16le PCM, an input for another pipeline and no CloudEvent.

    sample_index: place of the first sample on the stream's clock, silence included.
    """

    stream: str
    pcm: bytes
    rate_hz: int
    session: str
    sample_index: int
    eos: bool


Body = VoicedAudio | PartialTranscript | FinalTranscript | Prediction | Alert | StreamEvent | DeadLetter

TYPES: dict[type, tuple[str, str, Role]] = {
    PartialTranscript: ("streamer.transcript.partial.v1", "partial", "transcripts"),
    FinalTranscript: ("streamer.transcript.final.v1", "final", "transcripts"),
    Prediction: ("streamer.prediction.v1", "prediction", "predictions"),
    Alert: ("streamer.alert.v1", "alert", "alerts"),
    DeadLetter: ("streamer.deadletter.v1", "deadletter", "deadletters"),
}
STREAM_EVENT_TYPES = {e: f"streamer.stream.{e}.v1" for e in ("started", "gap", "reset", "model_changed", "ended")}
BODY_OF: dict[str, type] = {name: body for body, (name, _, _) in TYPES.items()} | dict.fromkeys(
    STREAM_EVENT_TYPES.values(), StreamEvent
)


class Output(msgspec.Struct, frozen=True, gc=False):
    """One message with what names it.

    kind and n: the last two parts of `ce_id`; n counts within the kind for one input record. key: the output record's
    key. decision: finals, alert changes, ends and resets are never re-run (DESIGN.md rule 4); other outputs are.
    """

    body: Body
    key: bytes
    kind: str
    n: int
    time_ms: int
    decision: bool


class PlainPredictions(NamedTuple):
    """n predictions that are nothing but named outputs, of m streams: what many `Output`s would say, as columns.

    topic: the causes'. ids, keys, subjects: of each stream its id, its output key and its causes' key. owner: (n,)
    which stream. partitions, offsets, times_ms: (n,) of the causes. outputs: (n, K) by name.
    """

    topic: str
    ids: Sequence[str]
    keys: Sequence[bytes]
    subjects: Sequence[bytes]
    owner: Numbers
    partitions: Numbers
    offsets: Numbers
    times_ms: Numbers
    outputs: Mapping[str, NDArray[Any]]


class Envelope(NamedTuple):
    """A received message: its CloudEvents attributes and its body."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    model: str
    body: Body


class Encoder:
    """Turns outputs into records. One per pipeline: what is the same for every message is built once."""

    def __init__(self, source: str, model: str) -> None:
        """source: `application/group/pipeline/role`; model: `name-version@fingerprint`."""
        fixed = (("ce_specversion", b"1.0"), ("ce_source", source.encode()))
        model_header = ("model", model.encode())
        json_type = ("content-type", b"application/json")
        self._head = {name: (*fixed, ("ce_type", name.encode()), json_type, model_header) for name in BODY_OF}
        self._head_of = {body: self._head[name] for body, (name, _, _) in TYPES.items()}
        self._json = msgspec.json.Encoder()

    def head(self, body: type) -> tuple[tuple[str, bytes], ...]:
        """The first headers of all messages with such a body (any but a StreamEvent, whose type differs)."""
        return self._head_of[body]

    def encode(self, output: Output, cause: Record, passed: Container[str] = ()) -> NewRecord:
        """The record of one output; `passed` names input headers that travel on (trace context, allow-listed)."""
        return self.encode_all([(output, cause)], passed)[0]

    def encode_all(self, said: Iterable[tuple[Output, Record]], passed: Container[str] = ()) -> list[NewRecord]:
        """The records of outputs with their causes: what is done for every message, in one loop for its speed."""
        to_json, head_of = self._json.encode, self._head_of.get
        records: list[NewRecord] = []
        for output, (topic, partition, offset, _, subject, _, given) in said:
            body, time_ms = output.body, output.time_ms
            if type(body) is VoicedAudio:
                records.append(voiced_record(output.key, body, time_ms))
                continue
            time: str = getattr(body, "time", "") or iso_time(time_ms)
            headers = [
                *(head_of(type(body)) or self._head[event_type(body)]),
                ("ce_id", f"{topic}/{partition}/{offset}/{output.kind}/{output.n}".encode()),
                ("ce_subject", subject or b""),
                ("ce_time", time.encode()),
            ]
            if given:
                headers += [(name, value) for name, value in given if name in passed]
            records.append(make_new_record((output.key, to_json(body), headers, time_ms)))
        return records


def voiced_record(key: bytes, body: VoicedAudio, time_ms: int) -> NewRecord:
    """Voiced audio as any other audio record, with its place in the stream."""
    headers = [
        ("content-type", f"audio/L16;rate={body.rate_hz};channels=1".encode()),
        ("x-session", body.session.encode()),
        ("x-sample-index", str(body.sample_index).encode()),
    ]
    if body.eos:
        headers.append(("x-eos", b"1"))
    return NewRecord(key, body.pcm, headers, time_ms)


def event_type(body: Body) -> str:
    """The CloudEvents type of a body."""
    if isinstance(body, StreamEvent):
        return STREAM_EVENT_TYPES[body.event]
    return TYPES[type(body)][0]


def role_of(body: Body) -> Role:
    """The output topic that a body belongs to."""
    return _ROLES[type(body)]


_ROLES: dict[type, Role] = {body: role for body, (_, _, role) in TYPES.items()} | {
    StreamEvent: "streams",
    VoicedAudio: "voiced",
}


_DECODERS: dict[str, msgspec.json.Decoder[Body]] = {name: msgspec.json.Decoder(body) for name, body in BODY_OF.items()}


def decode(record: Record) -> Envelope:
    """The message in a record that streamer published. Raises msgspec.DecodeError or KeyError for anything else."""
    headers = dict(record.headers)
    name = headers["ce_type"].decode()
    body = dead_letter_of(record) if name == "streamer.deadletter.v1" else _DECODERS[name].decode(record.value or b"")
    return Envelope(
        id=headers["ce_id"].decode(),
        source=headers["ce_source"].decode(),
        type=name,
        subject=headers["ce_subject"].decode(errors="replace"),
        time=headers["ce_time"].decode(),
        model=headers.get("model", b"").decode(),
        body=body,
    )


def dead_letter_of(record: Record) -> DeadLetter:
    """The coordinates and the reason in a dead letter's headers."""
    headers = dict(record.headers)
    topic, partition, offset = headers["x-dead-coordinates"].decode().rsplit("/", 2)
    return DeadLetter(
        topic=topic,
        partition=int(partition),
        offset=int(offset),
        timestamp_ms=record.timestamp_ms,
        reason=headers["x-dead-reason"].decode(),
        length=int(headers.get("x-dead-length", b"0")),
        sha256=headers.get("x-dead-sha256", b"").decode(),
        spill=headers.get("x-dead-spill", b"").decode(),
    )


def iso_time(time_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds; times that no calendar holds are clamped."""
    date_time = _date_time(time_ms // 1000)
    return date_time + _MILLISECONDS[time_ms % 1000] if date_time else _clamped(time_ms)


_MILLISECONDS = [f".{ms:03d}Z" for ms in range(1000)]


@lru_cache(maxsize=4096)
def _date_time(second: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS` of a Unix time, empty outside the calendar. Kept: many records share a second."""
    try:
        return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return ""


def _clamped(time_ms: int) -> str:
    return "9999-12-31T23:59:59.999Z" if time_ms > 0 else "0001-01-01T00:00:00.000Z"
