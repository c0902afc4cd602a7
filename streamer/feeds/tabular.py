"""Reading tables row by row: CSV, JSON Lines and Parquet behind one iterator. Knows no record and no pace."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow
import pyarrow.parquet

from streamer.errors import InputError

TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts")
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_SAMPLE_ROWS = 100
_SNIFF_CHARS = 16_384
_PARQUET_ROWS = 1024


class Row(NamedTuple):
    """A row: its time as it stands there, its device (None: the table is one), and its event as JSON."""

    time: str | int | float | None
    device: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class TableShape:
    """What a table's columns mean: numbers, the time (None: the rows have none) and the device (None: one device)."""

    columns: tuple[str, ...]
    time: str | None
    device: str | None


def shape_of(path: Path, columns: Sequence[str] | None, time: str | None, device: str | None) -> TableShape:
    """What the columns of the table at `path` mean, as asked for or found out from its first rows.

    Raises InputError for no such file, no table, and columns that are not there.
    """
    sample: list[Mapping[str, object]] = []
    for content in _contents(path):
        if isinstance(content, Mapping):
            sample.append(content)
        if len(sample) == _SAMPLE_ROWS:
            break
    return shape_of_rows(str(path), sample, columns, time, device)


def shape_of_rows(
    where: str,
    sample: Sequence[Mapping[str, object]],
    columns: Sequence[str] | None,
    time: str | None,
    device: str | None,
) -> TableShape:
    """What the columns of a table mean whose first rows are `sample`. Raises InputError."""
    if not sample:
        raise InputError(f"{where} holds no rows")
    there = list(dict.fromkeys(name for row in sample for name in row))
    asked = [*(columns or ()), *([time] if time else ()), *([device] if device else ())]
    if absent := [name for name in asked if name not in there]:
        raise InputError(f"{where} has no column {', '.join(absent)}; there are {', '.join(there)}")
    if time is None:
        time = next((name for wanted in TIME_NAMES for name in there if name.lower() == wanted), None)
    if columns is None:
        columns = [name for name in there if name not in (time, device) and _numeric(name, sample)]
    if not columns:
        raise InputError(f"{where} has no column of numbers; there are {', '.join(there)}")
    return TableShape(tuple(columns), time, device)


def read_rows(path: Path, shape: TableShape) -> Iterator[Row]:
    """All rows of the table, read as they are asked for. Raises InputError where the file breaks off."""
    encode = msgspec.json.Encoder().encode
    for content in _contents(path):
        if isinstance(content, bytes):
            yield Row(None, None, content)
            continue
        event: dict[str, object] = {}
        time = None
        if shape.time is not None:
            time = event[shape.time] = _time(content.get(shape.time))
        for name in shape.columns:
            event[name] = _value(content.get(name))
        device = None if shape.device is None else str(content.get(shape.device))
        yield Row(time, device, encode(event))


def _contents(path: Path) -> Iterator[Mapping[str, object] | bytes]:
    """Each row by column name; a line of JSON that is no object stays as it is."""
    suffix = path.suffix.lower()
    try:
        if suffix in PARQUET_SUFFIXES:
            yield from _parquet(path)
        elif suffix in JSON_SUFFIXES:
            yield from _json_lines(path)
        else:
            yield from _csv(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV: {error}") from None
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is no Parquet file: {error}") from None


def _csv(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        head = file.read(_SNIFF_CHARS)
        file.seek(0)
        first_line = head.partition("\n")[0]
        if "\0" in head:
            raise InputError(f"{path} is no CSV: it holds zero bytes")
        delimiter = max(",;\t|", key=first_line.count)
        reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
        names = reader.fieldnames
        if not names:
            raise InputError(f"{path} is empty")
        if len(set(names)) < len(names):
            raise InputError(f"{path} has two columns of the same name: {', '.join(names)}")
        for row in reader:
            yield {name: value for name, value in row.items() if isinstance(name, str)}


def _json_lines(path: Path) -> Iterator[Mapping[str, object] | bytes]:
    decode = msgspec.json.Decoder().decode
    with path.open("rb") as file:
        for line in file:
            if not (line := line.strip()):
                continue
            try:
                content = decode(line)
            except (msgspec.DecodeError, RecursionError):
                content = None
            yield content if isinstance(content, dict) else line


def _parquet(path: Path) -> Iterator[Mapping[str, object]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            yield from batch.to_pylist()


def _numeric(name: str, sample: Sequence[Mapping[str, object]]) -> bool:
    """Whether all values of a column that are there are numbers, and there is one."""
    values = [value for row in sample if (value := _value(row.get(name))) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _value(value: Any) -> object:
    """A cell as JSON holds it: text that is a number becomes one, what is missing None, anything else stays."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in {"", "nan", "null", "none", "na", "n/a"}:
            return None
        number = _number(text)
        return text if number is None else number
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, int | list | dict | None):
        return value
    return str(value)


def _number(text: str) -> float | str | None:
    try:
        return _finite(float(text))
    except ValueError:
        return None


def _finite(number: float) -> float | str | None:
    """JSON knows no infinity: it goes out as text, for the decoder to refuse by name."""
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else str(number)


def _time(value: Any) -> str | int | float | None:
    if isinstance(value, str):
        text = value.strip()
        number = _number(text)
        return number if isinstance(number, float) else text or None
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if isinstance(value, int | float) else None
