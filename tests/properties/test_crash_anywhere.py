"""Promise 3: killed at any write of any commit and started again, nothing is lost, reset or said differently."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sensor.hysteresis import AlertRule
from streamer.codecs.messages import Alert, Body, Prediction, StreamEvent
from streamer.log.base import Log
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, StreamOptions
from streamer.records import NewRecord
from streamer.tasks.alert import AlertTask
from streamer.testing.broken_log import MARKER, BrokenLog, Died
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of

History = list[list[NewRecord]]
"""The input, a list a partition."""
RULE = AlertRule(fire_at=5 / 8, resolve_at=2 / 8, cool_down_s=0.0)
ONE_AT_A_TIME = EngineOptions(max_batch=1, slots=2, deterministic=True, device="cpu")
TTL_MS = 1000


def eighths(stream: str, count: int, *, time_ms: int = 0, **headers: str) -> NewRecord:
    """Sums of eighths are exact in float32 and in six digits."""
    return event(stream, count / 8, time_ms=time_ms, **headers)


def serving(log: Log, history: History, snapshot_interval_ms: int = 1) -> Serving:
    options = options_of(
        len(history),
        engine=ONE_AT_A_TIME,
        streams=StreamOptions(ttl_s=TTL_MS / 1000),
        commit=CommitOptions(commit_interval_ms=1, snapshot_interval_ms=snapshot_interval_ms),
    )
    task = AlertTask(RULE, score_name="y", band=None, predictions=True)
    return Serving(log, RunningSum, options, task=task)


async def outcome(history: History, deaths: list[int], snapshot_interval_ms: int = 1) -> tuple[dict[str, Body], int]:
    """What was said by id, after dying at the given writes and going on; and the writes of the last run."""
    bench = serving(MemoryLog(), history, snapshot_interval_ms)
    await bench.create_topics()
    for partition, records in enumerate(history):
        await bench.feed(records, partition)
    for writes in deaths:
        try:
            await bench.serve(BrokenLog(bench.log, writes))
        except Died:
            continue
    last = BrokenLog(bench.log)
    await bench.serve(last)
    said: dict[str, Body] = {}
    for message in await bench.said():
        assert said.setdefault(message.id, message.body) == message.body, "one id, two meanings"
    return said, last.written


def expected(history: History) -> dict[str, float]:
    """The sum that each record must be answered with, by the answer's id: plain Python over the whole input."""
    answers: dict[str, float] = {}
    for partition, records in enumerate(history):
        sums: dict[bytes, tuple[float, int]] = {}
        for offset, record in enumerate(records):
            if record.key in (None, MARKER) or record.value == b"garbage":
                continue
            assert record.key is not None
            assert record.value is not None
            assert record.timestamp_ms is not None
            total, last_ms = sums.get(record.key, (0.0, record.timestamp_ms))
            if record.timestamp_ms - last_ms > TTL_MS:
                total = 0.0
            total += float(record.value.split(b":")[1].rstrip(b"}"))
            sums[record.key] = (total, record.timestamp_ms)
            answers[f"input/{partition}/{offset}/prediction/0"] = total
            if dict(record.headers).get("x-eos") == b"1":
                del sums[record.key]
    return answers


def answers_in(said: dict[str, Body]) -> dict[str, float]:
    return {i: body.score for i, body in said.items() if isinstance(body, Prediction) and body.score is not None}


def decisions_in(said: dict[str, Body]) -> dict[str, Body]:
    return {
        i: b for i, b in said.items() if isinstance(b, Alert) or (isinstance(b, StreamEvent) and b.event == "ended")
    }


HISTORY: History = [
    [
        eighths("a", 3),
        eighths("b", 1),
        NewRecord(MARKER, b""),
        eighths("a", 4, time_ms=10),  # fires
        NewRecord(b"a", b"garbage", (), 15),
        eighths("a", -6, time_ms=20),  # resolves
        eighths("b", 9, time_ms=20, x_eos="1"),  # fires, resolves at its end
        eighths("b", 2, time_ms=30),
        eighths("a", 1, time_ms=5000),  # its TTL ends the first a
        NewRecord(MARKER, b""),
    ],
    [eighths("c", 1), eighths("c", 5, time_ms=1), eighths("d", 1, time_ms=2, x_eos="1"), eighths("c", 2, time_ms=3)],
]


async def test_an_uninterrupted_run_answers_every_record_with_its_sum() -> None:
    said, _ = await outcome(HISTORY, [])
    assert answers_in(said) == expected(HISTORY)


@pytest.mark.parametrize("snapshot_interval_ms", [1, 60_000], ids=["saved at once", "never saved"])
async def test_killed_before_any_write_the_rest_is_as_if_it_had_not_been(snapshot_interval_ms: int) -> None:
    whole, writes = await outcome(HISTORY, [])
    for death in range(writes):
        said, _ = await outcome(HISTORY, [death], snapshot_interval_ms)
        assert said == whole, f"killed before write {death}"


VALUES = st.integers(-6, 6)
RECORDS = st.lists(
    st.one_of(
        st.builds(eighths, st.sampled_from("abc"), VALUES),
        st.builds(eighths, st.sampled_from("abc"), VALUES, x_eos=st.just("1")),
        st.just(NewRecord(MARKER, b"")),
        st.just(NewRecord(b"a", b"garbage", (), 0)),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Up to two partitions; time goes on within each, now and then by more than the TTL."""
    history = draw(st.lists(RECORDS, min_size=1, max_size=2))
    timed: History = []
    for records in history:
        now_ms, moved = 0, []
        for record in records:
            now_ms += draw(st.sampled_from([0, 1, 10, TTL_MS + 1]))
            moved.append(record._replace(timestamp_ms=now_ms))
        timed.append(moved)
    return timed


@settings(max_examples=25, deadline=None)
@given(histories(), st.lists(st.integers(0, 12), max_size=3), st.sampled_from([1, 60_000]))
def test_any_history_killed_at_any_writes_is_answered_as_the_whole_one(
    history: History, deaths: list[int], snapshot_interval_ms: int
) -> None:
    said, _ = asyncio.run(outcome(history, deaths, snapshot_interval_ms))
    whole, _ = asyncio.run(outcome(history, []))
    assert answers_in(said) == expected(history)
    assert decisions_in(said) == decisions_in(whole)
    assert said.keys() == whole.keys()
