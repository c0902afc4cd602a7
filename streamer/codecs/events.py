"""Sensor events to rows of numbers: one JSON or MessagePack object a record, one float32 row of C columns out of it.

A missing value (null, NaN or no such field) is NaN in the row and normal: what to put in its place needs the stream's
past and is the intake's business. What is never normal is a value that is no number: infinity, text, true.
A batch costs one msgspec decode a record and one array for all; the rows are views of that array.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.codecs.audio import stream_of
from streamer.codecs.base import Decoded, Samples
from streamer.codecs.headers import NO_HEADERS, StreamHeaders, parse_headers, shown
from streamer.errors import ConfigurationError, Malformed
from streamer.records import Record

if TYPE_CHECKING:
    from streamer.codecs.event_columns import EventColumns

Missing = Literal["hold", "mask", "reject"]
"""What becomes of missing values: the last one held, the column masked, or the whole record rejected."""
TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

_MS_PER = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_LATEST_MS = 253_402_300_799_999  # 9999-12-31, the last day that ISO 8601 can write
_NO_ROW = object()
MOST_COLUMNS = 60
"""With more, events are read one by one."""
_MOST_RECORDS = 10**18
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FORMATS = {
    b"application/json": "json",
    b"application/x-ndjson": "json",
    b"application/msgpack": "msgpack",
    b"application/x-msgpack": "msgpack",
    b"application/vnd.msgpack": "msgpack",
    b"application/octet-stream": "",
}


class EventDecoder:
    """Decodes sensor events to rows of `columns`.

    columns: field names, or with `array` the names of that array field's elements. time: the field with the event
    time (ISO 8601, naive is UTC; or a number since 1970 in `time_unit`, where auto tells seconds from milliseconds by
    size); None: the record's timestamp. stream: the field that names the device; None: the record's key, without one
    `default_stream`. seq: the field with the sequence number where no `x-seq` header has it. format: of records
    without a content-type.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        array: str | None = None,
        time: str | None = None,
        time_unit: TimeUnit = "auto",
        stream: str | None = None,
        seq: str | None = "seq",
        missing: Missing = "hold",
        format: Literal["json", "msgpack"] = "json",
        default_stream: str | None = None,
    ) -> None:
        """Raises ConfigurationError for no columns or a field with two meanings."""
        self._columns = tuple(columns)
        self._array = array
        self._time_field = time
        self._time_unit = time_unit
        self._stream_field = stream
        self._reject_missing = missing == "reject"
        self._default_stream = default_stream
        event = _event_type(self._columns, array, time, stream, None if seq in self._columns else seq)
        readers: dict[str, Callable[[bytes], Any]] = {
            "json": partial(_read_json, msgspec.json.Decoder(event).decode, event),
            "msgpack": msgspec.msgpack.Decoder(event).decode,
        }
        self._readers = readers
        self._fast: dict[str, Callable[[bytes], Any]] = {**readers, "json": msgspec.json.Decoder(event).decode}
        self._format = format
        self._no_rows: Samples = np.zeros((0, len(self._columns)), np.float32)
        names = ["values"] if array is not None else [f"c{i}" for i in range(len(self._columns))]
        self._row: Callable[[Any], Any] = attrgetter(*names)
        self._fields = (self._columns, array, stream, None if seq in self._columns else seq)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the C columns of the samples are."""
        return self._columns

    def in_columns(self) -> EventColumns | None:
        """Reads whole batches to the same events. None where events name their time, are no JSON, or are very wide."""
        if self._time_field is not None or self._format != "json" or len(self._columns) > MOST_COLUMNS:
            return None
        from streamer.codecs.event_columns import EventColumns  # compiled code: loaded by whom it serves

        return EventColumns(*self._fields, self.decode)

    def decode(self, records: Sequence[Record]) -> list[Decoded | Malformed]:
        """One result for each record, in order; samples are (1, C), or (0, C) for an empty record with x-eos."""
        results: list[Decoded | Malformed] = []
        rows: list[Any] = []
        places: list[int] = []
        for index, record in enumerate(records):
            try:
                decoded, row = self._one(record)
            except Malformed as error:
                results.append(error)
                continue
            results.append(decoded)
            if row is not _NO_ROW:
                rows.append(row)
                places.append(index)
        if rows:
            self._fill(results, rows, places)
        return results

    def _one(self, record: Record) -> tuple[Decoded, Any]:
        """A record's event without its samples, and its row of values (_NO_ROW for a bare end)."""
        headers = parse_headers(record.headers) if record.headers else NO_HEADERS
        if not record.value:
            return self._bare_end(record, headers), _NO_ROW
        form = self._format if headers.content_type is None else self._format_of(headers.content_type)
        try:
            event = self._fast[form](record.value)
        except (msgspec.DecodeError, RecursionError, ValueError):
            event = self._read_again(record.value, form)
        seq = headers.seq
        if seq is None:
            seq = event.seq
            if seq is not None and not 0 <= seq < _MOST_RECORDS:
                raise Malformed(f"the event's sequence number {seq} is not between 0 and 10**18")
        stream = stream_of(record, self._default_stream) if self._stream_field is None else event.stream
        if type(stream) is not str or not stream:
            stream = self._stream(stream)
        time_ms = record.timestamp_ms
        if self._time_field is not None:
            time_ms = event_time_ms(event.time, self._time_field, self._time_unit)
        decoded = Decoded(stream, time_ms, self._no_rows, 0, headers.session, seq, headers.sample_index, headers.eos)
        return decoded, self._values(event)

    def _bare_end(self, record: Record, headers: StreamHeaders) -> Decoded:
        if not headers.eos:
            raise Malformed("the record is empty and does not end its stream (x-eos)")
        stream = stream_of(record, self._default_stream)
        place = headers.session, headers.seq, headers.sample_index
        return Decoded(stream, record.timestamp_ms, self._no_rows, 0, *place, eos=True)

    def _read_again(self, payload: bytes, form: str) -> Any:
        """The slow way round: JSON with bare NaN, or the reason why it is no event."""
        try:
            return self._readers[form](payload)
        except msgspec.ValidationError as error:
            raise Malformed(f"the record is no event of {self._wanted()}: {error}") from None
        except RecursionError:
            raise Malformed(f"the {form} is nested too deeply to be an event") from None
        except (msgspec.DecodeError, ValueError) as error:
            raise Malformed(f"the record is no {form}: {error}") from None

    def _wanted(self) -> str:
        shown_columns = ", ".join(self._columns[:8]) + (", ..." if len(self._columns) > 8 else "")
        return f"columns {shown_columns}" if self._array is None else f"array {self._array} ({shown_columns})"

    def _format_of(self, content_type: bytes) -> str:
        kind = content_type.partition(b";")[0].strip().lower()
        form = _FORMATS.get(kind, "json" if kind.endswith(b"+json") else None)
        if form is None:
            raise Malformed(f"content-type {shown(content_type)} is no event this reads (JSON or MessagePack)")
        return form or self._format

    def _stream(self, value: str | int | None) -> str:
        if value is None or value == "":
            raise Malformed(f"the event has no field {self._stream_field} to name its stream")
        return str(value)

    def _values(self, event: Any) -> Any:
        row = self._row(event)
        if self._array is not None:
            if row is None:
                return [None] * len(self._columns)
            if len(row) != len(self._columns):
                raise Malformed(f"array {self._array} has {len(row)} values, not {len(self._columns)}")
        return row

    def _fill(self, results: list[Decoded | Malformed], rows: list[Any], places: list[int]) -> None:
        """Give each record its row: one array for the whole batch."""
        wide: NDArray[np.float64] = np.array(rows, np.float64).reshape(len(rows), len(self._columns))
        huge = np.abs(wide) > _FLOAT32_MAX
        absent = np.isnan(wide)
        bad = huge.any(axis=1) | (absent.any(axis=1) if self._reject_missing else absent.all(axis=1))
        if bad.any():
            wide[huge] = np.nan
        matrix = wide.astype(np.float32).reshape(len(rows), 1, len(self._columns))
        for place, row in zip(places, matrix, strict=True):
            results[place].samples = row  # type: ignore[union-attr] # a place has a row because it was decoded
        for i in np.flatnonzero(absent.any(axis=1)).tolist():
            results[places[i]].lacking = True  # type: ignore[union-attr]
        for i in np.flatnonzero(bad).tolist():
            results[places[i]] = self._reason(huge[i], absent[i])

    def _reason(self, huge: NDArray[np.bool_], absent: NDArray[np.bool_]) -> Malformed:
        named = np.array(self._columns)
        if huge.any():
            return Malformed(f"column {', '.join(named[huge])} is infinite or too large for float32")
        if absent.all():
            return Malformed(f"the event has none of the {self._wanted()}: every value is missing")
        return Malformed(f"column {', '.join(named[absent])} is missing, and missing values are rejected here")


def _event_type(
    columns: tuple[str, ...], array: str | None, time: str | None, stream: str | None, seq: str | None
) -> type:
    """A struct of just the fields that matter: everything else in an event is skipped unparsed."""
    if not columns:
        raise ConfigurationError("an event decoder needs at least one column")
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    wanted: list[tuple[str, str | None, Any]] = [
        ("time", time, str | int | float | None),
        ("stream", stream, str | int | None),
        ("seq", seq, int | None),
    ]
    if array is not None:
        wanted.append(("values", array, list[float | None] | None))
    else:
        wanted.extend((f"c{i}", column, float | None) for i, column in enumerate(columns))
    for name, field, kind in wanted:
        if field is not None:
            fields.append((name, kind, None))
            rename[name] = field
    if len(set(rename.values())) != len(rename) or len(set(columns)) != len(columns):
        raise ConfigurationError(
            f"each field of an event can mean one thing only: columns {', '.join(columns)}, array {array}, "
            f"time {time}, stream {stream}, seq {seq}"
        )
    absent: dict[str, Any] = {name: None for name, field, _ in wanted if field is None}
    return msgspec.defstruct("Event", fields, rename=rename, namespace=absent, gc=False)


def _read_json(decode: Callable[[bytes], Any], event: type, payload: bytes) -> Any:
    """JSON as Python's own `json.dumps` writes it: with bare NaN for a missing value."""
    if b"NaN" not in payload:
        return decode(payload)
    content = json.loads(payload, parse_constant=_constant)
    return msgspec.convert(content, event)


def _constant(name: str) -> None:
    if name != "NaN":
        _refuse(name)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value")


def event_time_ms(value: str | int | float | None, field: str, unit: TimeUnit) -> int:
    """Unix milliseconds of an event's time field. Raises Malformed."""
    if value is None:
        raise Malformed(f"the event has no field {field} with its time")
    if isinstance(value, str):
        return _iso_ms(value, field)
    if unit == "auto":
        unit = "ms" if abs(value) >= 1e11 else "s"  # 1e11 s is the year 5138, 1e11 ms is 1973
    time_ms = value * _MS_PER[unit]
    if not abs(time_ms) <= _LATEST_MS:
        raise Malformed(f"field {field} is {value}, which is no time in {unit} before the year 10000")
    return round(time_ms)


def _iso_ms(text: str, field: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(f"field {field} is {text[:40]!r}, which is no ISO 8601 time") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)
