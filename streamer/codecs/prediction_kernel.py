"""Predictions' records written by compiled code, the interpreter let go: value, key and the headers that differ.

What it writes is what `messages.Encoder` says of the same predictions, byte for byte. Import it lazily: it compiles at
its first import on a machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.speech.compiled import compiled, inlined, types

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

ROWS = 5
KEY, VALUE, ID, SUBJECT, TIME = range(ROWS)
"""The parts of a record, as rows of `starts` and `ends`."""
TIME_BYTES = 24
"""`YYYY-MM-DDTHH:MM:SS.mmmZ`."""
NUMBER_BYTES = 20
"""The most that a decimal int64 takes."""
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""What the calendar of `iso_time` holds: the years 1 to 9999."""

_u8 = types.Array(types.uint8, 1, "C", readonly=True)
_i64 = types.Array(types.int64, 1, "C", readonly=True)
_out = types.uint8[::1]
_table = types.int64[:, ::1]


@inlined
def _copy(out: Bytes, at: int, source: Bytes, begin: int, end: int) -> int:
    for i in range(begin, end):
        out[at + i - begin] = source[i]
    return at + end - begin


@inlined
def _write_digits(out: Bytes, at: int, value: int, count: int) -> int:
    for i in range(count):
        out[at + count - 1 - i] = 48 + value % 10
        value //= 10
    return at + count


@inlined
def _write_number(out: Bytes, at: int, value: int) -> int:
    """A number that is not negative, in decimal."""
    count = 1
    rest = value // 10
    while rest:
        count += 1
        rest //= 10
    return _write_digits(out, at, value, count)


@inlined
def _write_time(out: Bytes, at: int, time_ms: int) -> int:
    """RFC 3339 in UTC. Source: H. Hinnant, chrono-compatible low-level date algorithms (civil_from_days)."""
    ms = time_ms % 1000
    second = time_ms // 1000
    days = second // 86_400
    second -= days * 86_400
    z = days + 719_468
    era = z // 146_097
    doe = z - era * 146_097
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = mp + 3 if mp < 10 else mp - 9
    year = yoe + era * 400 + (1 if month <= 2 else 0)
    at = _write_digits(out, at, year, 4)
    out[at] = 45
    at = _write_digits(out, at + 1, month, 2)
    out[at] = 45
    at = _write_digits(out, at + 1, doy - (153 * mp + 2) // 5 + 1, 2)
    out[at] = 84
    at = _write_digits(out, at + 1, second // 3600, 2)
    out[at] = 58
    at = _write_digits(out, at + 1, second // 60 % 60, 2)
    out[at] = 58
    at = _write_digits(out, at + 1, second % 60, 2)
    out[at] = 46
    at = _write_digits(out, at + 1, ms, 3)
    out[at] = 90
    return at + 1


@compiled(
    types.int64(
        *(_out, _table, _table),
        *(_i64, _i64, _i64, _i64),
        *(_u8, _i64, _u8, _i64),
        *(_u8, _i64),
        *(_u8, _i64, _u8, _i64, _u8, types.int64),
    )
)
def write(
    out: Bytes,
    starts: Numbers,
    ends: Numbers,
    owner: Numbers,
    partition: Numbers,
    offset: Numbers,
    time_ms: Numbers,
    names: Bytes,
    name_bounds: Numbers,
    keys: Bytes,
    key_bounds: Numbers,
    subjects: Bytes,
    subject_bounds: Numbers,
    numbers: Bytes,
    widths: Numbers,
    constant: Bytes,
    constant_bounds: Numbers,
    id_parts: Bytes,
    id_head: int,
) -> int:
    """Write n records; the bytes written, -1 for numbers that are not as many as they should be.

    out: large enough. starts, ends: (ROWS, n), written. owner: (n,) stream of each record; names: the streams' ids as
    JSON, keys: their output keys, subjects: what the causes' keys say, each by its m + 1 bounds.
    numbers: `[a,b,...]`, all values as JSON, a record's behind each other. widths: values of each named output.
    constant: the value's text around them, by bounds: before the stream, before the time, before each output's values,
    the end. id_parts: what `ce_id` has before the partition (`id_head` bytes) and behind the offset.
    """
    streams = len(key_bounds) - 1
    first_subject = _copy(out, 0, keys, 0, key_bounds[streams])
    at = _copy(out, first_subject, subjects, 0, subject_bounds[streams])
    token = 1  # behind the opening bracket
    last = len(numbers) - 1
    for i in range(len(owner)):
        stream = owner[i]
        begin = at
        at = _copy(out, at, constant, 0, constant_bounds[1])
        at = _copy(out, at, names, name_bounds[stream], name_bounds[stream + 1])
        at = _copy(out, at, constant, constant_bounds[1], constant_bounds[2])
        starts[TIME, i] = at
        at = _write_time(out, at, time_ms[i])
        ends[TIME, i] = at
        for name in range(len(widths)):
            at = _copy(out, at, constant, constant_bounds[2 + name], constant_bounds[3 + name])
            for value in range(widths[name]):
                if value:
                    out[at] = 44
                    at += 1
                if token >= last:
                    return -1
                while token < last and numbers[token] != 44:
                    out[at] = numbers[token]
                    at += 1
                    token += 1
                token += 1  # the comma
        at = _copy(out, at, constant, constant_bounds[2 + len(widths)], constant_bounds[3 + len(widths)])
        starts[VALUE, i] = begin
        ends[VALUE, i] = at
        starts[KEY, i] = key_bounds[stream]
        ends[KEY, i] = key_bounds[stream + 1]
        starts[ID, i] = at
        at = _copy(out, at, id_parts, 0, id_head)
        at = _write_number(out, at, partition[i])
        out[at] = 47
        at = _write_number(out, at + 1, offset[i])
        at = _copy(out, at, id_parts, id_head, len(id_parts))
        ends[ID, i] = at
        starts[SUBJECT, i] = first_subject + subject_bounds[stream]
        ends[SUBJECT, i] = first_subject + subject_bounds[stream + 1]
    return at
