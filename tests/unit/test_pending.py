"""Messages that wait to be published: columns are parted at an offset as single messages are, and keep their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.columns import NewColumns, NewParts
from streamer.records import NewRecord
from streamer.worker.pending import Pending, PendingColumns, Said, by_topic, parted, unpublished

OFFSET = st.integers(0, 9)
SAID = st.lists(st.tuples(OFFSET, st.booleans()) | st.lists(OFFSET, min_size=1, max_size=5), max_size=6)


def columns(offsets: Sequence[int]) -> PendingColumns:
    """Each of these says its offset."""
    spans = np.array([offsets] * 2, np.int64)  # keys and values: the digits themselves
    digits = np.frombuffer(b"0123456789", np.uint8)
    records = NewColumns(digits, spans, spans + 1, np.zeros(len(offsets), np.int64), ())
    return PendingColumns(np.array(offsets, np.int64), "predictions", records)


def said_of(drawn: Sequence[tuple[int, bool] | list[int]]) -> list[Said]:
    return [
        columns(one)
        if isinstance(one, list)
        else Pending(one[0], "predictions", NewRecord(b"%d" % one[0], b"%d" % one[0], [], 0), one[1])
        for one in drawn
    ]


def singly(outputs: Sequence[Said]) -> list[tuple[int, NewRecord, bool]]:
    """As messages one by one."""
    found: list[tuple[int, NewRecord, bool]] = []
    for one in outputs:
        if isinstance(one, Pending):
            found.append((one.offset, one.record, one.decision))
        else:
            found += [(*pair, False) for pair in zip(one.offsets.tolist(), one.records, strict=True)]
    return found


@given(SAID, st.integers(0, 10))
def test_outputs_are_parted_at_an_offset_in_their_order(drawn: list[tuple[int, bool] | list[int]], at: int) -> None:
    outputs = said_of(drawn)
    below, rest = parted(outputs, at)
    assert singly(below) == [one for one in singly(outputs) if one[0] < at]
    assert singly(rest) == [one for one in singly(outputs) if one[0] >= at]


@given(SAID, st.integers(0, 10))
def test_of_what_was_committed_only_decisions_are_said_anew(
    drawn: list[tuple[int, bool] | list[int]], committed: int
) -> None:
    outputs = said_of(drawn)
    expected = [one for one in singly(outputs) if one[0] >= committed or one[2]]
    assert singly(unpublished(outputs, committed)) == expected


@given(SAID)
def test_a_topic_gets_its_records_in_order_whatever_they_wait_as(drawn: list[tuple[int, bool] | list[int]]) -> None:
    outputs = said_of(drawn)
    appends = by_topic(outputs, lambda role: f"topic-{role}")
    assert {name for name, _ in appends} <= {"topic-predictions"}
    assert [record for _, records in appends for record in records] == [record for _, record, _ in singly(outputs)]


def test_columns_behind_each_other_are_one_sequence() -> None:
    parts = NewParts([columns([1, 2]).records, columns([3]).records])
    assert [record.value for record in parts] == [b"1", b"2", b"3"]
    assert (parts[0].value, parts[1].value, parts[-1].value, len(parts)) == (b"1", b"2", b"3", 3)
    assert [record.value for record in parts[1:]] == [b"2", b"3"]
