"""What streams have to say, encoded on the engine's thread and queued for the committer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec.structs import replace

from streamer.codecs.messages import Encoder, Output, PlainPredictions, StreamEvent, iso_time, role_of
from streamer.records import NewRecord, Record, TopicPartition
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.pending import Pending, PendingColumns
from streamer.worker.results import CallResult
from streamer.worker.stream import Stream

if TYPE_CHECKING:
    from streamer.codecs.prediction_columns import PredictionColumns

Event = Literal["started", "gap", "reset", "model_changed", "ended"]


class Outbox:
    """Encodes messages with what caused them. pass_headers: names of input headers that travel on."""

    def __init__(self, encoder: Encoder, dead: DeadLetters, pass_headers: Iterable[str]) -> None:
        self._encoder = encoder
        self.dead = dead
        self.passed = frozenset(pass_headers)
        self._columns: PredictionColumns | None = None

    def say(self, result: CallResult, record: Record, messages: Iterable[Output]) -> None:
        """Queue messages caused by `record`."""
        self.say_all(result, [(message, record) for message in messages])

    def say_all(self, result: CallResult, said: Sequence[tuple[Output, Record]]) -> None:
        """Queue messages with the records that caused them."""
        encoded = self._encoder.encode_all(said, self.passed)
        for (message, record), new in zip(said, encoded, strict=True):
            pending = Pending(record.offset, role_of(message.body), new, message.decision)
            result[record.partition].outputs.append(pending)

    def say_plain(self, result: CallResult, said: PlainPredictions) -> bool:
        """Queue predictions as columns. False for such as must be said one by one; nothing is queued then."""
        encoded = self._in_columns().encode(said)
        if encoded is None:
            return False
        for partition in np.unique(said.partitions).tolist():
            rows = np.flatnonzero(said.partitions == partition)
            part = encoded if len(rows) == len(encoded) else encoded.take(rows)
            result[partition].outputs.append(PendingColumns(said.offsets[rows], "predictions", part))
        return True

    def _in_columns(self) -> PredictionColumns:
        if self._columns is None:
            from streamer.codecs.prediction_columns import PredictionColumns  # compiled code, loaded by whom it serves

            self._columns = PredictionColumns(self._encoder)
        return self._columns

    def event(
        self,
        result: CallResult,
        stream: Stream,
        record: Record,
        event: Event,
        time_ms: int,
        *,
        n: int = 0,
        reason: str = "",
        samples: int = 0,
    ) -> None:
        """Queue what befell a stream. Ends and resets are decisions (DESIGN.md rule 4)."""
        body = StreamEvent(stream=stream.id, event=event, time=iso_time(time_ms), reason=reason, samples=samples)
        decision = event in ("reset", "ended", "model_changed")
        self.say(result, record, [Output(body, stream.key or b"", event, n, time_ms, decision)])

    def refuse(self, result: CallResult, record: Record, reason: str) -> None:
        """Queue the dead letter of a record."""
        letter = self.dead.of(record, reason)
        result[record.partition].outputs.append(Pending(record.offset, "deadletters", letter, False))

    def own(self, message: Output, partition: TopicPartition, offset: int) -> NewRecord:
        """The record of a message that the worker itself has to say about a partition."""
        cause = Record(partition.topic, partition.partition, offset, message.time_ms, message.key, None, ())
        return self._encoder.encode(message, cause)


def renamed(messages: Iterable[Output], why: str) -> list[Output]:
    """What is said on leaving has kinds of its own: the same record may have said the same kind while stepping."""
    return [replace(m, kind=f"{m.kind}-at-{why}") for m in messages]


def numbered(count: Counter[str], messages: Iterable[Output]) -> list[Output]:
    """`n` counts within a kind over all pieces of a record."""
    result = []
    for message in messages:
        result.append(replace(message, n=count[message.kind]))
        count[message.kind] += 1
    return result
