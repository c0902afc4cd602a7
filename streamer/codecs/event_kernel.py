"""Plain JSON events read by compiled code, the interpreter let go.

Plain is: one object; keys and strings of printable ASCII without escapes; of each wanted field one value, of each
column a number whose nearest double is exact arithmetic away (at most 15 digits, powers of ten up to 22); other fields
with strings, numbers, true, false or null. Whatever else a record is, somebody else reads it. What is read here is the
same to the last bit (tests/unit/test_event_columns.py).

Source of the exact arithmetic: W. D. Clinger, How to read floating point numbers accurately, 1990. Import it lazily: it
compiles at its first import on a machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.speech.compiled import compiled, inlined, types

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

STREAM, SEQ, ARRAY, COLUMN = range(4)
"""What a field is; the first column is COLUMN, the second COLUMN + 1."""
WHOLE, DIGITS, POWER = range(3)
"""What is known of a number: its digits as an integer, how many of them count, its power of ten."""
MOST_DIGITS, MOST_POWER = 15, 22
MOST_SEQ_DIGITS = 18

_POWERS = np.array([10.0**i for i in range(MOST_POWER + 1)])
_u8 = types.Array(types.uint8, 1, "C", readonly=True)
_i64 = types.Array(types.int64, 1, "C", readonly=True)
_any = types.Array(types.int64, 1, "A", readonly=True)
_line = types.int64[::1]
_NOT_PLAIN = -1


@inlined
def _space(data: Bytes, at: int, end: int) -> int:
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@inlined
def _string(data: Bytes, at: int, end: int) -> int:
    """Behind the closing quote of a plain string that begins behind its opening one."""
    while at < end:
        byte = data[at]
        if byte == 34:
            return at + 1
        if byte < 32 or byte > 126 or byte == 92:
            return _NOT_PLAIN
        at += 1
    return _NOT_PLAIN


@inlined
def _word(data: Bytes, at: int, end: int) -> int:
    """Behind true, false or null."""
    if end - at >= 4 and data[at] == 116 and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        return at + 4
    if end - at >= 4 and data[at] == 110 and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
        return at + 4
    if (
        end - at >= 5
        and data[at] == 102
        and data[at + 1] == 97
        and data[at + 2] == 108
        and data[at + 3] == 115
        and data[at + 4] == 101
    ):
        return at + 5
    return _NOT_PLAIN


@inlined
def _digits(data: Bytes, at: int, end: int, sums: Numbers) -> int:
    """Behind digits, which are added to those in `sums`: the number so far, and how many of its digits count."""
    while at < end and 48 <= data[at] <= 57 and sums[DIGITS] <= MOST_DIGITS:
        sums[WHOLE] = sums[WHOLE] * 10 + (data[at] - 48)
        if sums[WHOLE]:
            sums[DIGITS] += 1
        at += 1
    return at


@inlined
def _exponent(data: Bytes, at: int, end: int, sums: Numbers) -> int:
    """Behind an exponent of at most three digits, which begins behind its letter and is added to `sums`."""
    down = at < end and data[at] == 45
    if down or (at < end and data[at] == 43):
        at += 1
    begin = at
    power = 0
    while at < end and 48 <= data[at] <= 57 and at - begin < 4:
        power = power * 10 + (data[at] - 48)
        at += 1
    if at == begin or at - begin > 3:
        return _NOT_PLAIN
    sums[POWER] += -power if down else power
    return at


@inlined
def _number(data: Bytes, at: int, end: int, sums: Numbers, found: NDArray[np.float64]) -> int:
    """Behind a number, which is put into found[0]; what is no JSON, or not exact, is not plain."""
    sums[WHOLE] = sums[DIGITS] = sums[POWER] = 0
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    begin = at
    at = _digits(data, begin, end, sums)
    if at == begin or (at - begin > 1 and data[begin] == 48):
        return _NOT_PLAIN
    if at < end and data[at] == 46:
        begin = at + 1
        at = _digits(data, begin, end, sums)
        if at == begin:
            return _NOT_PLAIN
        sums[POWER] = begin - at
    if at < end and (data[at] == 69 or data[at] == 101):
        at = _exponent(data, at + 1, end, sums)
    power = sums[POWER]
    if sums[DIGITS] > MOST_DIGITS or abs(power) > MOST_POWER or (negative and not sums[WHOLE]):
        return _NOT_PLAIN
    value = np.float64(sums[WHOLE])
    value = value / _POWERS[-power] if power < 0 else value * _POWERS[power]
    found[0] = -value if negative else value
    return at


@inlined
def _field(data: Bytes, begin: int, end: int, keys: Bytes, bounds: Numbers, expected: int) -> int:
    """Which of the wanted fields a key names, -1 for none; `expected` is looked at first."""
    size = end - begin
    count = len(bounds) - 1
    for turn in range(count):
        i = (expected + turn) % count
        if bounds[i + 1] - bounds[i] == size:
            same = 0
            while same < size and keys[bounds[i] + same] == data[begin + same]:
                same += 1
            if same == size:
                return i
    return -1


@inlined
def _array(data: Bytes, at: int, end: int, row: NDArray[np.float32], sums: Numbers, found: NDArray[np.float64]) -> int:
    """Behind an array of as many numbers as there are columns, which begins behind its bracket."""
    for column in range(len(row)):
        at = _space(data, at, end)
        at = _number(data, at, end, sums, found)
        if at < 0:
            return at
        row[column] = np.float32(found[0])
        at = _space(data, at, end)
        if at >= end or data[at] != (44 if column < len(row) - 1 else 93):
            return _NOT_PLAIN
        at += 1
    return at


@inlined
def _seq(data: Bytes, at: int, end: int, seqs: Numbers, record: int) -> int:
    """Behind a plain count."""
    begin = at
    value = 0
    while at < end and 48 <= data[at] <= 57 and at - begin < MOST_SEQ_DIGITS:
        value = value * 10 + (data[at] - 48)
        at += 1
    follows = data[at] if at < end else 0
    if at == begin or (at - begin > 1 and data[begin] == 48):
        return _NOT_PLAIN
    if 48 <= follows <= 57 or follows == 46 or follows == 69 or follows == 101:
        return _NOT_PLAIN
    seqs[record] = value
    return at


@inlined
def _passed_over(data: Bytes, at: int, end: int, sums: Numbers, found: NDArray[np.float64]) -> int:
    """Behind the value of a field that nobody wants."""
    if data[at] == 34:
        return _string(data, at + 1, end)
    if data[at] == 45 or 48 <= data[at] <= 57:
        return _number(data, at, end, sums, found)
    return _word(data, at, end)


@inlined
def _value(
    data: Bytes,
    at: int,
    end: int,
    kind: int,
    record: int,
    row: NDArray[np.float32],
    seqs: Numbers,
    names: Numbers,
    name_ends: Numbers,
    sums: Numbers,
    found: NDArray[np.float64],
) -> int:
    """Behind a wanted field's value, which is written."""
    if kind == SEQ:
        return _seq(data, at, end, seqs, record)
    if kind == STREAM:
        if data[at] != 34:
            return _NOT_PLAIN
        names[record] = at + 1
        at = _string(data, at + 1, end)
        name_ends[record] = at - 1
        return at
    if kind == ARRAY:
        return _array(data, at + 1, end, row, sums, found) if data[at] == 91 else _NOT_PLAIN
    at = _number(data, at, end, sums, found)
    row[kind - COLUMN] = np.float32(found[0])
    return at


@inlined
def _event(
    data: Bytes,
    at: int,
    end: int,
    keys: Bytes,
    bounds: Numbers,
    kinds: Numbers,
    record: int,
    row: NDArray[np.float32],
    seqs: Numbers,
    names: Numbers,
    name_ends: Numbers,
    sums: Numbers,
    found: NDArray[np.float64],
) -> bool:
    """Whether a record is a plain event. Its row, number and stream's name are written."""
    at = _space(data, at, end)
    if at >= end or data[at] != 123:
        return False
    seen, expected, columns = 0, 0, 0
    while True:
        at = _space(data, at + 1, end)
        if at >= end or data[at] != 34:
            return False
        begin = at + 1
        at = _string(data, begin, end)
        if at < 0:
            return False
        field = _field(data, begin, at - 1, keys, bounds, expected)
        at = _space(data, at, end)
        if at >= end or data[at] != 58:
            return False
        at = _space(data, at + 1, end)
        if at >= end or (field >= 0 and seen >> field & 1):
            return False
        if field < 0:
            at = _passed_over(data, at, end, sums, found)
        else:
            seen |= 1 << field
            expected = field + 1
            columns += len(row) if kinds[field] == ARRAY else int(kinds[field] >= COLUMN)
            at = _value(data, at, end, kinds[field], record, row, seqs, names, name_ends, sums, found)
        if at < 0:
            return False
        at = _space(data, at, end)
        if at >= end or data[at] != 44:
            break
    return columns == len(row) and at < end and data[at] == 125 and _space(data, at + 1, end) == end


@compiled(
    types.void(
        *(_u8, _any, _any, _any, _any),
        *(_u8, _i64, _i64, types.boolean),
        *(types.float32[:, ::1], _line, _line, _line, types.boolean[::1], _line, types.float64[::1]),
    )
)
def read(
    data: Bytes,
    key_starts: Numbers,
    key_ends: Numbers,
    starts: Numbers,
    ends: Numbers,
    keys: Bytes,
    bounds: Numbers,
    kinds: Numbers,
    named: bool,
    samples: NDArray[np.float32],
    seqs: Numbers,
    names: Numbers,
    name_ends: Numbers,
    plain: NDArray[np.bool_],
    sums: Numbers,
    found: NDArray[np.float64],
) -> None:
    """Read the values of n records.

    keys, bounds, kinds: the wanted fields' names and what they are, fewer than 64. named: a field names the stream,
    else the record's key does. samples: (n, C), seqs: (n,) -1 for none, names, name_ends: (n,) where in `data` the
    stream's name lies; plain: (n,) whether all of that was written; sums: (3,) and found: (1,), for the reading.
    """
    for i in range(len(starts)):
        seqs[i] = -1
        names[i] = name_ends[i] = 0
        row = samples[i]
        plain[i] = ends[i] > starts[i] and _event(
            data, starts[i], ends[i], keys, bounds, kinds, i, row, seqs, names, name_ends, sums, found
        )
        if not named:
            names[i], name_ends[i] = key_starts[i], key_ends[i]
            for at in range(names[i], name_ends[i]):
                if data[at] > 127:
                    plain[i] = False
        if name_ends[i] <= names[i]:
            plain[i] = False
