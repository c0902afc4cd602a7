"""Events of a stream that is behind are stepped as one row: nobody can tell but by the time it takes."""

from __future__ import annotations

import asyncio
import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.contract import Outputs, State, StreamModel
from streamer.codecs.base import Decoded
from streamer.codecs.messages import DeadLetter, Envelope, Prediction
from streamer.log.memory import MemoryLog
from streamer.options import EngineOptions, StreamOptions
from streamer.records import NewRecord
from streamer.testing.faults import BAD, NanOnBad, RaisesOnBad
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of
from streamer.worker.stream import STEP, Stream, follow, follow_if_next, judge, open_stream, soon

OPTIONS = StreamOptions(ttl_s=0.6, zero_fill_limit_records=2)
SMALL = st.integers(0, 3)
DECODED = st.builds(
    Decoded,
    stream=st.just("s"),
    time_ms=st.integers(0, 1000),
    samples=st.integers(0, 2).map(lambda n: np.zeros((n, 1), np.float32)),
    rate_hz=st.sampled_from([0, 0, 8000]),
    session=st.none() | st.sampled_from(["a", "b"]),
    seq=st.none() | SMALL,
    sample_index=st.none() | SMALL,
    eos=st.booleans(),
)


@settings(max_examples=500)
@given(first=DECODED, second=DECODED, offset=st.integers(5, 7))
def test_what_is_plainly_next_is_judged_next_and_moves_the_stream_alike(
    first: Decoded, second: Decoded, offset: int
) -> None:
    stream = open_stream(first, b"s", 0, 5, None)
    follow(stream, first, 5, 0)
    careful, quick = copy.copy(stream), copy.copy(stream)
    if not follow_if_next(quick, second, offset, soon(OPTIONS)):
        assert quick == stream
        return
    assert offset >= stream.position
    assert judge(stream, second, OPTIONS) == STEP
    follow(careful, second, offset, 0)
    assert quick == careful


async def served(model: StreamModel, records: list[NewRecord], chunks_per_call: int) -> list[Envelope]:
    """What is said of records of which all but the first of each stream wait already."""
    engine = EngineOptions(max_batch=8, slots=16, device="cpu", chunks_per_call=chunks_per_call)
    bench = Serving(MemoryLog(), lambda: model, options_of(engine=engine, streams=OPTIONS))
    await bench.create_topics()
    await bench.feed([event(name, 1.0) for name in "ab"])
    async with bench.running():
        await bench.until_published(bench.options.outputs.predictions)
    await bench.feed(records)
    await bench.serve()
    return sorted(await bench.said(), key=lambda message: message.id)


@pytest.mark.parametrize("model", [NanOnBad(), RaisesOnBad()], ids=["gives NaN", "raises"])
async def test_of_a_run_that_goes_wrong_only_the_record_that_is_to_blame_goes_to_the_dead_letters(
    model: StreamModel,
) -> None:
    values = [2.0, 3.0, BAD, 4.0, 5.0]
    said = await served(model, [event(name, v) for v in values for name in "ab" if name == "a" or v != BAD], 8)
    assert [m.body.offset for m in said if isinstance(m.body, DeadLetter)] == [6]
    told = {n: [m.body for m in said if isinstance(m.body, Prediction) and m.subject == n] for n in "ab"}
    sums = {n: sorted(body.outputs["y"][0] for body in bodies if body.outputs) for n, bodies in told.items()}
    assert sums == {"a": [1.0, 3.0, 4.0, 6.0, 9.0], "b": [1.0, 3.0, 6.0, 10.0, 15.0]}


class Watched(RunningSum):
    """Notes how many samples its longest row has."""

    longest = 0

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        self.longest = max(self.longest, x.shape[1])
        return super().step(x, lengths, state)


@pytest.mark.parametrize(("chunks_per_call", "longest"), [(1, 1), (3, 3), (8, 5)])
async def test_as_many_waiting_events_as_a_call_may_hold_are_one_row(chunks_per_call: int, longest: int) -> None:
    model = Watched()
    await served(model, [event("a", n) for n in range(5)], chunks_per_call)
    assert model.longest == longest


EVENT = st.tuples(st.sampled_from("ab"), st.integers(-9, 9), st.integers(0, 6), st.integers(0, 900), st.booleans())
"""Stream, value, seq, time, and whether it ends its stream."""


def sent(events: list[tuple[str, int, int, int, bool]]) -> list[NewRecord]:
    """In the order of their times: some plainly follow each other, some are late, double, after a gap or too late."""
    ends = {True: {"x_eos": "1"}, False: {}}
    ordered = sorted(events, key=lambda e: e[3])
    return [event(n, v, time_ms=t, x_seq=str(seq), **ends[eos and v > 6]) for n, v, seq, t, eos in ordered]


@settings(max_examples=20, deadline=None)
@given(st.lists(EVENT, max_size=24))
def test_what_is_said_of_a_backlog_does_not_depend_on_how_many_of_its_records_a_row_holds(
    events: list[tuple[str, int, int, int, bool]],
) -> None:
    one_by_one = asyncio.run(served(RunningSum(), sent(events), 1))
    assert asyncio.run(served(RunningSum(), sent(events), 8)) == one_by_one


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=30))
def test_a_backlog_in_order_is_answered_alike_in_rows_of_any_length(steps: list[int]) -> None:
    numbers = [(n, step == 3) for n, step in enumerate(steps)]
    records = [event("a", n, time_ms=10 * n, x_seq=str(n + jump)) for n, jump in numbers]
    one_by_one = asyncio.run(served(RunningSum(), records, 1))
    for chunks_per_call in (2, 8, 100):
        assert asyncio.run(served(RunningSum(), records, chunks_per_call)) == one_by_one


def test_a_stream_keeps_its_place_when_a_record_is_not_plainly_next() -> None:
    stream = Stream(id="s", key=b"s", partition=0, first_offset=0, started_ms=0, task=None, expected_seq=3)
    before = copy.copy(stream)
    assert not follow_if_next(stream, Decoded("s", 0, np.zeros((1, 1), np.float32), seq=4), 9, 1000)
    assert stream == before
