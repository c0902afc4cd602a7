"""Tables of sensor events - CSV, JSON Lines, Parquet - as one stream a device, paced by the table's own timestamps.

Each row becomes a JSON event of its time and its chosen columns, which `TableFeed.decoder()` reads. Values go out as
they lie in the table: what is no number is the decoder's to refuse, and a row's fault is not its neighbours'.
Rows are read as they are needed; only the Parquet row group at hand is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from streamer.codecs.events import EventDecoder, Missing, TimeUnit, event_time_ms
from streamer.codecs.headers import CONTENT_TYPE, EOS, SEQ, SESSION
from streamer.errors import InputError, Malformed
from streamer.feeds.audio_file import content_hash
from streamer.feeds.pace import SYSTEM_CLOCK, Clock, Pace
from streamer.feeds.progress import Progress, Run
from streamer.feeds.tabular import Row, TableShape, read_rows, shape_of
from streamer.records import NewRecord

_BATCH = 256
_JSON = (CONTENT_TYPE, b"application/json")


class TableFeed:
    """Feeds a table's rows in their order."""

    def __init__(
        self,
        path: Path | str,
        *,
        columns: Sequence[str] | None = None,
        time: str | None = None,
        time_unit: TimeUnit = "auto",
        device: str | None = None,
        stream: str | None = None,
        speed: float = 0.0,
        interval_s: float = 1.0,
        again: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """columns: None takes every numeric one. time: None takes a column called timestamp, time, datetime or date;
        where there is none, rows are `interval_s` apart, beginning now. device: the column whose values name the
        streams; None makes the table one stream called `stream`, else by its file name. speed: 0 as fast as possible,
        N times as fast as the timestamps say. again: as a new session even if it was fed before.

        Raises InputError for no such file, no table, and columns that are not there (naming those that are).
        """
        self._path = Path(path)
        self.shape: TableShape = shape_of(self._path, columns, time, device)
        self._time_unit: TimeUnit = time_unit
        self._stream = stream or self._path.name
        self._pace = Pace(speed, clock)
        self._interval_s = interval_s
        self._again = again
        self._clock = clock
        self._progress: Mapping[Run, Progress] = {}
        self._position_s: float | None = None
        self._seen: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def live(self) -> bool:
        return False

    def decoder(self, missing: Missing = "hold") -> EventDecoder:
        """The decoder of this feed's records."""
        return EventDecoder(
            self.shape.columns, time=self.shape.time, time_unit=self._time_unit, seq=None, missing=missing
        )

    def resume(self, progress: Mapping[Run, Progress]) -> None:
        """Pass over rows that these runs have fed already."""
        self._progress = progress

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        """Records in the table's order; at the end an empty record with `x-eos` for each device.

        Raises InputError when the file is broken or a timestamp of the first row is none.
        """
        start_ms = self._clock.unix_ms()
        session = await asyncio.to_thread(content_hash, self._path)
        if self._again:
            session += f"-{start_ms:x}"
        self._seen = {}
        begun = [so_far.start_ms for run, so_far in self._progress.items() if run.session == session]
        start_ms = min((ms for ms in begun if ms is not None), default=start_ms)
        rows = read_rows(self._path, self.shape)
        number = 0
        while batch := await asyncio.to_thread(_take, rows):
            pending: list[NewRecord] = []
            for row in batch:
                position_s = self._position(row, number)
                if position_s != self._position_s and pending and self._pace.holds_back:
                    yield pending
                    pending = []
                self._position_s = position_s
                record = self._record(row, session, start_ms + round(number * self._interval_s * 1000))
                number += 1
                if record is None:
                    continue
                if not pending and position_s is not None:
                    await self._pace.until(position_s)
                pending.append(record)
            if pending:
                yield pending
        if ends := [end for stream in self._seen if (end := self._end(stream, session)) is not None]:
            yield ends

    def _position(self, row: Row, number: int) -> float | None:
        """Where a row lies in the table's time, in seconds; one without a readable time lies with the row before."""
        if self.shape.time is None:
            return number * self._interval_s
        known = self._position_s is not None
        if row.time is None or (known and not self._pace.holds_back):
            return self._position_s
        try:
            return event_time_ms(row.time, self.shape.time, self._time_unit) / 1000
        except Malformed as error:
            if not known:
                raise InputError(f"{self._path}: {error}") from None
            return self._position_s

    def _record(self, row: Row, session: str, row_ms: int) -> NewRecord | None:
        """A row's record, None when it was fed before."""
        stream = self._stream if row.device is None else row.device
        seq = self._seen.get(stream, 0)
        self._seen[stream] = seq + 1
        if seq < self._progress.get(Run(stream, session), _NONE).next_seq:
            return None
        headers = (_JSON, (SESSION, session.encode()), (SEQ, b"%d" % seq))
        # Rows with a time of their own carry it inside; the record's time stays the append's, so that a log which
        # keeps records for a week does not delete the measurements of 2014 at once.
        timestamp_ms = row_ms if self.shape.time is None else None
        return NewRecord(stream.encode(), row.payload, headers, timestamp_ms)

    def _end(self, stream: str, session: str) -> NewRecord | None:
        if self._progress.get(Run(stream, session), _NONE).done:
            return None
        headers = (_JSON, (SESSION, session.encode()), (SEQ, b"%d" % self._seen[stream]), (EOS, b"1"))
        return NewRecord(stream.encode(), b"", headers, None)


_NONE = Progress(0)


def _take(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _BATCH))
