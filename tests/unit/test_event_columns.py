"""A batch of events read as columns: item by item what is read record by record, whatever the payloads are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.codecs.base import Decoded
from streamer.codecs.events import EventDecoder
from streamer.codecs.messages import Encoder
from streamer.columns import RecordColumns
from streamer.options import StreamOptions
from streamer.records import NewRecord, Record, RecordBatch, TopicPartition
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.intake import FEW_RECORDS, Intake

PARTITION = TopicPartition("sensors", 3)
FLAT = EventDecoder(["a", "b"])
NAMED = EventDecoder(["x", "y"], array="values", stream="device")
PADDING = [(b"pad", b'{"a": 1, "b": 2}', 0)] * (FEW_RECORDS + 1)
"""So many that a batch is read as columns; no event of `NAMED`, an event of `FLAT`."""

NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-10_000, max_value=10_000).map(str),
    st.integers(-(10**18), 10**18).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0e5", "00", "01", "1.", ".5", "+1", "1e", "null", "NaN", "true", '"1"', "1e400"]),
)
SPACE = st.sampled_from(["", "", "", " ", "\n\t", "\r"])
DEVICE = st.sampled_from(["d1", "d2", "", "Straße", "d\\u0031", 'd"', "d\\\\", "\x7f"])


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """An event of one of the two kinds, or something that is nearly one."""

    def s() -> str:
        return draw(SPACE)

    def n() -> str:
        return draw(NUMBER)

    fields = [f'"seq"{s()}:{s()}{draw(st.integers(-2, 9) | st.sampled_from(["01", "1.0", "1e2", 10**18, "null"]))}']
    if draw(st.booleans()):
        fields += [f'"a"{s()}:{n()}', f'"b":{s()}{n()}']
    else:
        values = f"{s()},{s()}".join(n() for _ in range(draw(st.sampled_from([2, 2, 2, 1, 3, 0]))))
        fields += [f'"values":{s()}[{s()}{values}{s()}]', f'"device":{s()}"{draw(DEVICE)}"']
    if draw(st.booleans()):
        fields.append(f'"more"{s()}:{draw(st.sampled_from(["{}", "[1]", "true", "null", "-1.5e3", "text", "1e999"]))}')
    text = "{" + f"{s()},{s()}".join(draw(st.permutations(fields))) + s() + "}" + draw(SPACE)
    encoded = text.encode()
    if draw(st.integers(0, 9)) == 0 and encoded:
        at = draw(st.integers(0, len(encoded) - 1))
        encoded = encoded[:at] + draw(st.binary(max_size=2)) + encoded[at + 1 :]
    return encoded


GIVEN = tuple[bytes | None, bytes | None, int]
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([b"k1", b"k1", b"k2", b"", None, b"\xff", "ü".encode()]),
        st.one_of(payloads(), payloads(), payloads(), st.binary(max_size=12), st.none()),
        st.integers(0, 700),
    ),
    max_size=12,
)


def as_columns(records: Sequence[Record]) -> RecordColumns:
    """The same records with their bytes behind each other, as they lie in what was fetched."""
    parts = [part for record in records for part in (record.key, record.value)]
    sizes = np.array([0 if part is None else len(part) for part in parts], np.int64)
    starts = (np.cumsum(sizes) - sizes).reshape(-1, 2).T
    absent = np.array([part is None for part in parts]).reshape(-1, 2).T
    numbers = np.array([(record.offset, record.timestamp_ms) for record in records], np.int64).T
    ends = starts + sizes.reshape(-1, 2).T - absent
    raw = b"".join(part or b"" for part in parts)
    return RecordColumns(*PARTITION, numbers[0].copy(), numbers[1].copy(), raw, starts, ends)


def records_of(given: Sequence[GIVEN]) -> list[Record]:
    made, time_ms = [], 0
    for offset, (key, value, ahead_ms) in enumerate(given):
        time_ms += ahead_ms
        made.append(Record(*PARTITION, 2 * offset, time_ms, key, value, ()))
    return made


def seen(decoded: Decoded) -> tuple[Any, ...]:
    """Everything in it, its samples by their bits."""
    fields = (decoded.stream, decoded.time_ms, decoded.rate_hz, decoded.session, decoded.seq, decoded.sample_index)
    samples = np.where(np.isnan(decoded.samples), np.float32(np.nan), decoded.samples)
    return *fields, decoded.eos, decoded.lacking, decoded.samples.shape, samples.tobytes()


def taken(decoder: EventDecoder, records: Sequence[Record]) -> tuple[list[Any], list[tuple[int, NewRecord]]]:
    """What intake makes of a batch: its items record by record, and its dead letters."""
    dead = DeadLetters(Encoder("app/g/p/live", "m-1@x"), 1_000_000, "never-written")
    intake = Intake(decoder, dead, StreamOptions(), records_per_run=4)
    items, refused = intake.take(RecordBatch(PARTITION, records, 10_000), 0)
    shown = [
        (item.key, item.skip, [(record, seen(decoded)) for record, decoded in item.parts()], item.offsets())
        for item in items
    ]
    return shown, [(letter.offset, letter.record) for letter in refused]


@pytest.mark.parametrize("decoder", [FLAT, NAMED], ids=["flat", "named"])
@settings(max_examples=400, deadline=None)
@given(RECORDS)
@example([(b"k", b'{"a":1,"b":9007199254740993}', 0), (b"k", b'{"a":0.1,"b":1e22}', 0), (b"k", b'{"a":1e23,"b":2}', 0)])
@example([(b"k", b'{"a":-0,"b":-0.0}', 0), (b"k", b'{"a":1,"a":2,"b":3}', 0), (b"k", b"{}", 0)])
def test_a_batch_read_as_columns_is_what_it_is_record_by_record(decoder: EventDecoder, given: list[GIVEN]) -> None:
    records = records_of([*given, *PADDING])
    assert taken(decoder, as_columns(records)) == taken(decoder, records)


def test_runs_are_stepped_from_one_array_and_know_where_they_end() -> None:
    values = [{"a": i, "b": -i, "seq": i} for i in range(FEW_RECORDS + 4)]
    records = records_of([(b"k", json.dumps(value).encode(), 10) for value in values])
    items, _ = Intake(FLAT, None, StreamOptions(), records_per_run=100).take(  # type: ignore[arg-type]
        RecordBatch(PARTITION, as_columns(records), 10_000), 0
    )
    [run] = items
    assert run.samples().tolist() == [[value["a"], value["b"]] for value in values]
    last = records[-1]
    assert run.behind() == (last.offset + 1, last.offset, last.timestamp_ms, len(values))
    assert [single.decoded.seq for single in run.singles()] == list(range(len(values)))


def test_a_run_has_one_key() -> None:
    flat = EventDecoder(["a"], stream="device")
    payload = b'{"device": "d", "a": 1}'
    records = records_of([(b"one" if i < 10 else b"two", payload, 1) for i in range(FEW_RECORDS + 4)])
    intake = Intake(flat, None, StreamOptions(), records_per_run=100)  # type: ignore[arg-type]
    items, _ = intake.take(RecordBatch(PARTITION, as_columns(records), 10_000), 0)
    assert [(item.record.key, len(item.later) + 1) for item in items] == [(b"one", 10), (b"two", FEW_RECORDS - 6)]


def test_a_key_that_is_too_long_is_refused_in_columns_too() -> None:
    records = records_of([(b"k" * 5000, b'{"a": 1, "b": 2}', 0), *PADDING])
    _, refused = taken(FLAT, as_columns(records))
    assert [offset for offset, _ in refused] == [0]
