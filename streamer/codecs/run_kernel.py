"""Events sorted into streams and runs by compiled code, the interpreter let go. Import it lazily, as `event_kernel`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.speech.compiled import compiled, types

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

_u8 = types.Array(types.uint8, 1, "C", readonly=True)
_any = types.Array(types.int64, 1, "A", readonly=True)
_line = types.int64[::1]


@compiled(types.int64(_u8, _line, _line, types.boolean[::1], _line, _line, _line))
def number_streams(
    data: Bytes,
    names: Numbers,
    name_ends: Numbers,
    plain: NDArray[np.bool_],
    table: Numbers,
    streams: Numbers,
    firsts: Numbers,
) -> int:
    """Number the streams in the order in which they come; how many.

    table: -1 everywhere, its size a power of two above 2 n. streams: (n,) the number, -1 where it is not plain.
    firsts: the first record of each.
    """
    count = 0
    mask = len(table) - 1
    for i in range(len(names)):
        streams[i] = -1
        if not plain[i]:
            continue
        begin, size = names[i], name_ends[i] - names[i]
        spread = np.uint64(0xCBF29CE484222325)
        for at in range(begin, begin + size):
            spread = (spread ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        place = np.int64(spread ^ (spread >> np.uint64(32))) & mask
        while table[place] >= 0:
            first = firsts[table[place]]
            same = 0
            if name_ends[first] - names[first] == size:
                while same < size and data[names[first] + same] == data[begin + same]:
                    same += 1
                if same == size:
                    break
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = count
            firsts[count] = i
            count += 1
        streams[i] = table[place]
    return count


@compiled(
    types.int64(
        *(_u8, _any, _any, _line, _line, _line, types.boolean[::1]),
        *(types.int64, types.int64),
        *(types.int64[:, ::1], _line),
    )
)
def group(
    data: Bytes,
    key_starts: Numbers,
    key_ends: Numbers,
    streams: Numbers,
    seqs: Numbers,
    times_ms: Numbers,
    lacking: NDArray[np.bool_],
    most: int,
    soon_ms: int,
    open_runs: Numbers,
    runs: Numbers,
) -> int:
    """Put events that plainly follow each other into runs of at most `most`; how many runs.

    It is what `streamer.worker.stream.continues` says of two events, and all of a run have the same key. open_runs:
    (2, streams), for the work. runs: (n,) the number of each event's run in the order of their first events, -1 for
    those of no stream.
    """
    last, sizes = open_runs[0], open_runs[1]
    last[:] = -1
    count = 0
    for i in range(len(streams)):
        stream = streams[i]
        if stream < 0:
            runs[i] = -1
            continue
        before = last[stream]
        joins = before >= 0 and sizes[stream] < most and not lacking[i] and not lacking[before]
        if joins:
            follows = seqs[i] < 0 if seqs[before] < 0 else seqs[i] == seqs[before] + 1
            ahead_ms = times_ms[i] - times_ms[before]
            joins = follows and 0 <= ahead_ms <= soon_ms
        if joins:
            size = key_ends[i] - key_starts[i]
            joins = key_ends[before] - key_starts[before] == size
            at = 0
            while joins and at < size:
                joins = data[key_starts[i] + at] == data[key_starts[before] + at]
                at += 1
        if joins:
            runs[i] = runs[before]
            sizes[stream] += 1
        else:
            runs[i] = count
            sizes[stream] = 1
            count += 1
        last[stream] = i
    return count
