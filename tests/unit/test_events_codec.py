"""Sensor events: what decodes, what is missing, what is malformed and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.base import Decoded
from streamer.codecs.events import EventDecoder, TimeUnit
from streamer.errors import ConfigurationError, Malformed
from streamer.records import Headers, Record

TIME_MS = 1_700_000_000_000
VALUE = EventDecoder(["value"])


def raw(value: bytes | None, headers: Headers = (), key: bytes | None = b"d1") -> Record:
    return Record("sensors", 0, 0, TIME_MS, key, value, headers)


def event(content: object, headers: Headers = ()) -> Record:
    return raw(json.dumps(content).encode(), headers)


def decoded(decoder: EventDecoder, record: Record) -> Decoded:
    [result] = decoder.decode([record])
    assert isinstance(result, Decoded), result
    return result


def reason(decoder: EventDecoder, record: Record) -> str:
    [result] = decoder.decode([record])
    assert isinstance(result, Malformed)
    return str(result)


def test_a_flat_event_is_one_row_of_its_columns_in_the_order_asked_for() -> None:
    result = decoded(EventDecoder(["b", "a"]), event({"a": 1, "b": 2.5, "c": "ignored"}))
    assert result.samples.tolist() == [[2.5, 1.0]]
    assert result.samples.dtype == np.float32
    assert (result.stream, result.time_ms, result.rate_hz) == ("d1", TIME_MS, 0)


def test_an_array_field_is_one_row() -> None:
    decoder = EventDecoder(["x", "y", "z"], array="values", stream="device")
    result = decoded(decoder, event({"device": "d17", "seq": 4, "values": [1, None, 3]}))
    assert (result.stream, result.seq) == ("d17", 4)
    assert result.samples.tolist()[0] == pytest.approx([1.0, float("nan"), 3.0], nan_ok=True)


def test_column_names_may_be_anything() -> None:
    result = decoded(EventDecoder(["Motor temp. [°C]", "class"]), event({"Motor temp. [°C]": 1, "class": 2}))
    assert result.samples.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("content", [b'{"b": 1}', b'{"a": null, "b": 1}', b'{"a": NaN, "b": 1}'])
def test_a_value_that_is_absent_null_or_nan_is_missing_and_normal(content: bytes) -> None:
    row = decoded(EventDecoder(["a", "b"]), raw(content)).samples[0]
    assert np.isnan(row[0])
    assert row[1] == 1.0


def test_an_event_without_any_value_is_malformed() -> None:
    assert "none of the columns a, b" in reason(EventDecoder(["a", "b"]), event({"a": None}))
    assert "every value is missing" in reason(EventDecoder(["a"], array="v"), event({"v": [None]}))
    assert "every value is missing" in reason(EventDecoder(["a"], array="v"), event({}))


def test_missing_values_can_be_rejected_by_name() -> None:
    assert "column b is missing" in reason(EventDecoder(["a", "b"], missing="reject"), event({"a": 1}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"value": "1.5"}', "got `str` - at `$.value`"),
        (b'{"value": true}', "got `bool`"),
        (b'{"value": [1]}', "got `array`"),
        (b'{"value": 1e999}', "out of range"),
        (b'{"value": Infinity}', "no json"),
        (b'{"value": NaN, "other": Infinity}', "Infinity is no value"),
        (b'{"value": 1e39}', "too large for float32"),
        (b'{"value": 1, "seq": "x"}', "$.seq"),
        (b'{"value": 1, "seq": -1}', "sequence number -1"),
        (b"[1, 2]", "no event of columns value"),
        (b"1.5", "no event"),
        (b"hello", "no json"),
        (b"\xff\xfe", "no json"),
        (b'{"value": 1', "truncated"),
        (b'{"x":' * 100_000, "nested too deeply"),
        (b"", "empty"),
        (None, "empty"),
    ],
)
def test_what_is_no_event_says_what_is_wrong(content: bytes | None, why: str) -> None:
    assert why in reason(VALUE, raw(content))


def test_an_infinite_value_names_its_column() -> None:
    decoder = EventDecoder(["a", "b"], format="msgpack")
    assert "column b is infinite" in reason(decoder, raw(msgspec.msgpack.encode({"a": 1.0, "b": float("inf")})))


def test_an_array_of_the_wrong_length_is_malformed() -> None:
    assert "has 2 values, not 3" in reason(EventDecoder(["x", "y", "z"], array="v"), event({"v": [1, 2]}))


def test_message_pack_is_read_by_its_content_type() -> None:
    packed = msgspec.msgpack.encode({"value": 2.0})
    assert decoded(VALUE, raw(packed, (("content-type", b"application/msgpack"),))).samples.tolist() == [[2.0]]
    assert "no event this reads" in reason(VALUE, raw(packed, (("content-type", b"text/csv"),)))


@pytest.mark.parametrize(
    ("time", "unit", "time_ms"),
    [
        ("2023-11-14T22:13:20Z", "auto", TIME_MS),
        ("2023-11-14 22:13:20", "auto", TIME_MS),
        ("2023-11-15T00:13:20.250+02:00", "auto", TIME_MS + 250),
        (1_700_000_000, "auto", TIME_MS),
        (1_700_000_000.25, "auto", TIME_MS + 250),
        (TIME_MS, "auto", TIME_MS),
        (5, "ms", 5),
        (1_700_000_000_000_000, "us", TIME_MS),
        (1_700_000_000_000_000_000, "ns", TIME_MS),
    ],
)
def test_an_events_time_is_iso_8601_or_a_number_since_1970(time: str | float, unit: TimeUnit, time_ms: int) -> None:
    decoder = EventDecoder(["value"], time="at", time_unit=unit)
    assert decoded(decoder, event({"at": time, "value": 1})).time_ms == time_ms


@pytest.mark.parametrize("content", [{}, {"at": None}, {"at": "yesterday"}, {"at": 1e300}, {"at": []}])
def test_an_event_without_a_readable_time_is_malformed_where_one_was_named(content: Mapping[str, object]) -> None:
    assert "at" in reason(EventDecoder(["value"], time="at"), event({"value": 1, **content}))


def test_the_sequence_header_goes_before_the_field() -> None:
    assert decoded(VALUE, event({"value": 1, "seq": 3}, (("x-seq", b"9"), ("x-session", b"s")))).seq == 9


def test_a_device_field_must_be_there_where_it_names_the_stream() -> None:
    decoder = EventDecoder(["value"], stream="device")
    assert decoded(decoder, event({"device": 17, "value": 1})).stream == "17"
    assert "no field device" in reason(decoder, event({"value": 1}))


def test_an_empty_record_may_end_its_stream() -> None:
    result = decoded(EventDecoder(["a", "b"]), raw(b"", (("x-eos", b"1"),)))
    assert result.eos
    assert result.samples.shape == (0, 2)


def test_one_bad_record_harms_no_other_in_its_batch() -> None:
    records = [event({"value": 1}), event({"value": "x"}), event({"value": None}), event({"value": 4})]
    first, text, missing, last = VALUE.decode(records)
    assert isinstance(first, Decoded)
    assert isinstance(last, Decoded)
    assert (first.samples.tolist(), last.samples.tolist()) == ([[1.0]], [[4.0]])
    assert isinstance(text, Malformed)
    assert isinstance(missing, Malformed)


@pytest.mark.parametrize("options", [{"time": "value"}, {"stream": "value"}, {"time": "t", "stream": "t"}])
def test_a_field_with_two_meanings_is_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="one thing only"):
        EventDecoder(["value"], **options)


def test_no_column_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="at least one column"):
        EventDecoder([])


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "t", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    value=st.none() | st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
    key=st.none() | st.binary(max_size=5),
    form=st.sampled_from(["json", "msgpack"]),
    time=st.none() | st.just("t"),
)
def test_any_bytes_at_all_are_decoded_or_malformed(
    value: bytes | None, key: bytes | None, form: Literal["json", "msgpack"], time: str | None
) -> None:
    [result] = EventDecoder(["value", "x"], time=time, format=form).decode([raw(value, key=key)])
    if isinstance(result, Decoded):
        assert result.samples.shape == (1, 2)
        assert not np.isinf(result.samples).any()
        assert not np.isnan(result.samples).all()
    else:
        assert str(result)


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(width=32, allow_infinity=False), min_size=3, max_size=3))
def test_float32_values_arrive_unchanged(values: list[float | None]) -> None:
    [result] = EventDecoder(["a", "b", "c"], array="v").decode([raw(json.dumps({"v": values}).encode())])
    wanted = np.array([values], np.float64).astype(np.float32)
    if np.isnan(wanted).all():
        assert isinstance(result, Malformed)
    else:
        assert isinstance(result, Decoded)
        assert np.array_equal(result.samples, wanted, equal_nan=True)
