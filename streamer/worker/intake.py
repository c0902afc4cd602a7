"""Intake: payloads become items or dead letters, a batch at a time. Stateless; all that knows streams comes later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from streamer.codecs.base import Decoded, Decoder
from streamer.codecs.events import EventDecoder
from streamer.columns import KEY, RecordColumns
from streamer.errors import Malformed
from streamer.options import StreamOptions
from streamer.records import Record, RecordBatch
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.item import Item, Later
from streamer.worker.pending import Pending
from streamer.worker.results import StreamKey
from streamer.worker.stream import continues, soon

if TYPE_CHECKING:
    from streamer.codecs.event_columns import EventColumns

RESERVED = "\x00"
"""What the worker's own keys in a changelog begin with."""
MAX_KEY_BYTES = 4096
"""A key is in every output two or three times; a longer one would fill the outputs' records."""
FEW_RECORDS = 16
"""So many are read one by one: columns cost some 100 us a batch."""


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
        self._columns: EventColumns | None = decoder.in_columns() if isinstance(decoder, EventDecoder) else None
        self._dead = dead
        skips = options.at_max_lag == "skip_to_live" and options.max_lag_s is not None
        self._max_lag_ms = int((options.max_lag_s or 0) * 1000) if skips else None
        self.records_per_run = 1 if skips else records_per_run

    def take(self, batch: RecordBatch, now_ms: int) -> Intaken:
        """Decode a batch; records older than `max_lag_s` are marked to be skipped where the policy says so."""
        columns = self._columns_for(batch.records)
        taken = None if columns is None else self._in_columns(batch, columns)
        if taken is None or any(item.key.id[:1] == RESERVED for item in taken.items):
            taken = self._one_by_one(batch)
        if self._max_lag_ms is not None:
            self._mark_late(taken.items, now_ms - self._max_lag_ms, self._max_lag_ms)
        return taken

    def _columns_for(self, records: Sequence[Record]) -> EventColumns | None:
        """What reads these records as columns, None where they are to be read one by one."""
        if not isinstance(records, RecordColumns) or len(records) <= FEW_RECORDS:
            return None
        if int((records.ends[KEY] - records.starts[KEY]).max()) > MAX_KEY_BYTES:
            return None
        return self._columns

    def _in_columns(self, batch: RecordBatch, columns: EventColumns) -> Intaken:
        records, partition = batch.records, batch.partition.partition
        assert isinstance(records, RecordColumns)
        events, malformed = columns.read(records, self.records_per_run, self._soon_ms)
        begins, ends = events.bounds[:-1], events.bounds[1:]
        heads = events.pick(begins)
        items = [
            Item(StreamKey(partition, decoded.stream), record, decoded, "", Later(events, begin + 1, end))
            if end - begin > 1
            else Item(StreamKey(partition, decoded.stream), record, decoded)
            for begin, end, (record, decoded) in zip(begins, ends, heads, strict=True)
        ]
        return Intaken(items, [self._refused(records[place], reason) for place, reason in malformed.items()])

    def _one_by_one(self, batch: RecordBatch) -> Intaken:
        partition = batch.partition.partition
        items: list[Item] = []
        refused: list[Pending] = []
        latest: dict[str, tuple[Record, Decoded, list[tuple[Record, Decoded]]]] = {}
        for record, decoded in zip(batch.records, self._decoder.decode(batch.records), strict=True):
            key = record.key
            if key is not None and len(key) > MAX_KEY_BYTES:
                decoded = Malformed(f"the key has {len(key)} bytes, {MAX_KEY_BYTES} is the most")
            elif isinstance(decoded, Decoded) and decoded.stream[:1] == RESERVED:
                decoded = Malformed("a stream's name may not begin with a zero byte: give it another key")
            if isinstance(decoded, Malformed):
                refused.append(self._refused(record, decoded))
                continue
            name = decoded.stream
            run = latest.get(name)
            if run is not None and run[0].key == key and self._joins(run[1], run[2], decoded):
                run[2].append((record, decoded))
            else:
                later: list[tuple[Record, Decoded]] = []
                latest[name] = record, decoded, later
                items.append(Item(StreamKey(partition, name), record, decoded, "", later))
        return Intaken(items, refused)

    def _joins(self, first: Decoded, later: Sequence[tuple[Record, Decoded]], decoded: Decoded) -> bool:
        """Whether an event can be stepped in one row with those of its stream before it."""
        if len(later) + 1 >= self.records_per_run:
            return False
        return continues(later[-1][1] if later else first, decoded, self._soon_ms)

    def _refused(self, record: Record, reason: Malformed) -> Pending:
        return Pending(record.offset, "deadletters", self._dead.of(record, str(reason)), False)

    def _mark_late(self, items: list[Item], before_ms: int, max_lag_ms: int) -> None:
        for item in items:
            if item.record.timestamp_ms < before_ms:
                item.skip = f"skipped to live: older than {max_lag_ms / 1000:g} s"
