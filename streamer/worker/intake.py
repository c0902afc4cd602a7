"""Intake: payloads become items or dead letters, a batch at a time. Stateless; all that knows streams comes later."""

from __future__ import annotations

from typing import NamedTuple

from streamer.codecs.base import Decoded, Decoder
from streamer.errors import Malformed
from streamer.options import StreamOptions
from streamer.records import RecordBatch
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.item import Item
from streamer.worker.results import Pending, StreamKey
from streamer.worker.stream import continues, soon

MAX_KEY_BYTES = 4096
"""A key is in every output two or three times; a longer one would fill the outputs' records."""


class Intaken(NamedTuple):
    """items: decoded records; refused: dead letters of those that could not be decoded."""

    items: list[Item]
    refused: list[Pending]


class Intake:
    """Decodes for one pipeline. Thread-safe as its decoder is."""

    def __init__(
        self, decoder: Decoder, dead: DeadLetters, options: StreamOptions, *, records_per_run: int = 1
    ) -> None:
        """records_per_run: so many events of a stream that plainly follow each other may be stepped as one row."""
        self._soon_ms = soon(options)
        self._decoder = decoder
        self._dead = dead
        skips = options.at_max_lag == "skip_to_live" and options.max_lag_s is not None
        self._max_lag_ms = int((options.max_lag_s or 0) * 1000) if skips else None
        self.records_per_run = 1 if skips else records_per_run

    def take(self, batch: RecordBatch, now_ms: int) -> Intaken:
        """Decode a batch; records older than `max_lag_s` are marked to be skipped where the policy says so."""
        partition = batch.partition.partition
        items: list[Item] = []
        refused: list[Pending] = []
        latest: dict[str, Item] = {}
        for record, decoded in zip(batch.records, self._decoder.decode(batch.records), strict=True):
            key = record.key
            if key is not None and len(key) > MAX_KEY_BYTES:
                decoded = Malformed(f"the key has {len(key)} bytes, {MAX_KEY_BYTES} is the most")
            if isinstance(decoded, Malformed):
                letter = self._dead.of(record, str(decoded))
                refused.append(Pending(record.offset, "deadletters", letter, False))
                continue
            name = decoded.stream
            run = latest.get(name)
            if run is not None and self._joins(run, decoded):
                run.later.append((record, decoded))
            else:
                latest[name] = item = Item(StreamKey(partition, name), record, decoded)
                items.append(item)
        if self._max_lag_ms is not None:
            self._mark_late(items, now_ms - self._max_lag_ms, self._max_lag_ms)
        return Intaken(items, refused)

    def _joins(self, run: Item, decoded: Decoded) -> bool:
        """Whether an event can be stepped in one row with those of its stream before it."""
        later = run.later
        if len(later) + 1 >= self.records_per_run:
            return False
        return continues(later[-1][1] if later else run.decoded, decoded, self._soon_ms)

    def _mark_late(self, items: list[Item], before_ms: int, max_lag_ms: int) -> None:
        for item in items:
            if item.record.timestamp_ms < before_ms:
                item.skip = f"skipped to live: older than {max_lag_ms / 1000:g} s"
