"""Intake: payloads become items or dead letters, a batch at a time. Stateless; all that knows streams comes later."""

from __future__ import annotations

from typing import NamedTuple

from streamer.codecs.base import Decoded, Decoder
from streamer.errors import Malformed
from streamer.options import StreamOptions
from streamer.records import Record, RecordBatch
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.item import Item
from streamer.worker.results import Pending, StreamKey

MAX_KEY_BYTES = 4096
"""A key is in every output two or three times; a longer one would fill the outputs' records."""


class Intaken(NamedTuple):
    """items: decoded records with their streams; refused: dead letters of those that could not be decoded."""

    items: list[tuple[StreamKey, Item]]
    refused: list[Pending]


class Intake:
    """Decodes for one pipeline. Thread-safe as its decoder is."""

    def __init__(self, decoder: Decoder, dead: DeadLetters, options: StreamOptions) -> None:
        self._decoder = decoder
        self._dead = dead
        skips = options.at_max_lag == "skip_to_live" and options.max_lag_s is not None
        self._max_lag_ms = int((options.max_lag_s or 0) * 1000) if skips else None

    def take(self, batch: RecordBatch, now_ms: int) -> Intaken:
        """Decode a batch; records older than `max_lag_s` are marked to be skipped where the policy says so."""
        partition = batch.partition.partition
        items: list[tuple[StreamKey, Item]] = []
        refused: list[Pending] = []
        for record, decoded in zip(batch.records, self._decode(batch), strict=True):
            if isinstance(decoded, Malformed):
                letter = self._dead.of(record, str(decoded))
                refused.append(Pending(partition, record.offset, "deadletters", letter, False))
            else:
                items.append((StreamKey(partition, decoded.stream), Item(record, decoded, self._late(record, now_ms))))
        return Intaken(items, refused)

    def _decode(self, batch: RecordBatch) -> list[Decoded | Malformed]:
        decoded = self._decoder.decode(batch.records)
        for index, record in enumerate(batch.records):
            if record.key is not None and len(record.key) > MAX_KEY_BYTES:
                decoded[index] = Malformed(f"the key has {len(record.key)} bytes, {MAX_KEY_BYTES} is the most")
        return decoded

    def _late(self, record: Record, now_ms: int) -> str:
        if self._max_lag_ms is None or now_ms - record.timestamp_ms <= self._max_lag_ms:
            return ""
        return f"skipped to live: older than {self._max_lag_ms / 1000:g} s"
