"""Dead letters: the original bytes, key and headers with the reason; too big for the topic, coordinates and a spill."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from streamer.codecs.messages import DeadLetter, Encoder, Output
from streamer.records import NewRecord, Record

_OVERHEAD_BYTES = 4096
"""Room for our own headers beside the original record."""
_KEY_BYTES = 1024
"""A spilled original's key travels on up to this length."""
_HEADER_BYTES = 64 * 1024
"""And its headers up to this one."""


class DeadLetters:
    """Builds dead letters for one pipeline. max_bytes: what its topic takes; folder: where larger originals go."""

    def __init__(self, encoder: Encoder, max_bytes: int, folder: str) -> None:
        self._encoder = encoder
        self._max_bytes = max_bytes
        self._folder = Path(folder).expanduser()

    def of(self, record: Record, reason: str) -> NewRecord:
        """The dead letter of `record`, ready to publish."""
        value, key = record.value or b"", record.key or b""
        size = len(value) + len(key) + sum(len(k) + len(v or b"") for k, v in record.headers)
        digest, spill = "", ""
        if size + _OVERHEAD_BYTES > self._max_bytes:
            digest = hashlib.sha256(value).hexdigest()
            spill = self._spill(record, value)
        body = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            reason=reason,
            length=len(value),
            sha256=digest,
            spill=spill,
        )
        return self._record(record, body)

    def _record(self, record: Record, body: DeadLetter) -> NewRecord:
        if len(record.key or b"") > _KEY_BYTES and body.sha256:
            record = record._replace(key=None)  # it would come back as the subject of our own headers
        ours = self._encoder.encode(
            Output(body, record.key or b"", "deadletter", 0, record.timestamp_ms, False), record
        )
        marks = [
            ("x-dead-coordinates", record.coordinates.encode()),
            ("x-dead-reason", body.reason[:1000].encode()),
            ("x-dead-length", str(body.length).encode()),
        ]
        if not body.sha256:
            return NewRecord(record.key, record.value, (*record.headers, *ours.headers, *marks), record.timestamp_ms)
        marks += [("x-dead-sha256", body.sha256.encode()), ("x-dead-spill", body.spill.encode())]
        small = sum(len(name) + len(value or b"") for name, value in record.headers) <= _HEADER_BYTES
        theirs = record.headers if small else ()
        return NewRecord(record.key, msgspec.json.encode(body), (*theirs, *ours.headers, *marks), record.timestamp_ms)

    def _spill(self, record: Record, value: bytes) -> str:
        """Keep the original beside the log; a full disk must not block the partition, so that is said instead."""
        path = self._folder / f"{record.topic}-{record.partition}-{record.offset}.bin"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_bytes(value)
            os.replace(partial, path)
        except OSError as error:
            return f"not kept: {error.strerror or error}"
        return str(path)
