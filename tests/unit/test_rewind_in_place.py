"""Streams of a stopped pipeline run again in place: they repeat themselves, and nobody else is touched."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamer.codecs.messages import Envelope
from streamer.errors import Fenced, InputError
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.observe.comparison import compare
from streamer.rewind.in_place import run_in_place
from tests.unit.rewinding import (
    MIXED,
    ONE_STREAM,
    RARELY_SAVED,
    Fed,
    answered,
    drained,
    feed,
    plan_of,
    rewound,
    serving,
    sums,
    went_on,
)


async def test_run_again_in_place_a_stream_repeats_itself_under_the_same_ids_and_nobody_else_speaks() -> None:
    bench = await answered(serving(MemoryLog()), MIXED)
    again = await went_on(bench, "a", to=4)
    assert again == [(4, "a", 3), (6, "a", 7), (7, "a", 15), (8, "b", 11)]
    ids = Counter(message.id for message in await bench.said())
    assert {name for name, count in ids.items() if count > 1} == {f"input/0/{n}/prediction/0" for n in (4, 6)}


async def test_from_its_beginning_it_is_also_said_that_it_began() -> None:
    bench = await answered(serving(MemoryLog()), MIXED)
    again = await went_on(bench, "a", to=None)
    assert again == [(0, "a", 1), (4, "a", 3), (6, "a", 7), (7, "a", 15), (8, "b", 11)]
    events = Counter(m.id.removeprefix("input/0/") for m in await bench.said() if m.type.startswith("streamer.stream."))
    assert events == {"0/started/0": 2, "1/started/0": 1, "2/started/0": 1, "3/ended/0": 1}


async def test_the_same_holds_on_sqlite(tmp_path: Path) -> None:
    async with SqliteLog(tmp_path / "log.db") as log:
        bench = await answered(serving(log), MIXED)
        assert await went_on(bench, "a", to=4) == [(4, "a", 3), (6, "a", 7), (7, "a", 15), (8, "b", 11)]


async def test_the_pipeline_goes_on_with_the_state_that_the_run_came_to() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    plan = replace(await plan_of(bench, "a"), begin=2, target=2)  # as if its first record had never been
    await run_in_place(bench.log, rewound(bench), [plan])
    await answered(bench, [("a", 10)])
    assert sums(await bench.said())[-1] == (4, "a", 16)


async def test_a_stream_that_has_ended_stays_ended() -> None:
    bench = await answered(serving(MemoryLog()), MIXED)
    await run_in_place(bench.log, rewound(bench), [await plan_of(bench, "gone")])
    await answered(bench, [("gone", 5)])
    assert sums(await bench.said())[-1] == (7, "gone", 5)


async def test_a_killed_pipeline_goes_on_behind_what_it_had_committed() -> None:
    bench = serving(MemoryLog(), commit=RARELY_SAVED)
    await bench.create_topics()
    await feed(bench, MIXED)
    await bench.serve()
    assert await went_on(bench, "a", to=4) == [(4, "a", 3), (6, "a", 7), (7, "a", 15), (8, "b", 11)]


async def test_while_a_worker_is_live_nothing_is_run_in_place() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    plan = await plan_of(bench, "a")
    before = await bench.said()
    async with bench.running() as worker:
        await drained(bench, worker)
        with pytest.raises(Fenced, match="is live: stop it first"):
            await run_in_place(bench.log, rewound(bench), [plan], wait_s=0.1)
    assert await bench.said() == before


async def test_what_the_pipeline_has_not_answered_yet_is_not_repeated() -> None:
    bench = await answered(serving(MemoryLog()), ONE_STREAM)
    await feed(bench, [("a", 5), ("a", 6)])
    plan = await plan_of(bench, "a", to=5)
    with pytest.raises(InputError, match="was answered below offset 4, not up to 5"):
        await run_in_place(bench.log, rewound(bench), [plan])
    (done,) = await run_in_place(bench.log, rewound(bench), [await plan_of(bench, "a", to=3)])
    assert (done.plan.end, done.messages) == (4, 1)
    fresh = serving(MemoryLog())
    await fresh.create_topics()
    await feed(fresh, ONE_STREAM)
    with pytest.raises(InputError, match="has committed nothing of it"):
        await run_in_place(fresh.log, rewound(fresh), [await plan_of(fresh, "a")])


async def said_in_all(fed: list[Fed], stream: str, to: int) -> tuple[list[Envelope], list[Envelope]]:
    """What is said when a stream is run again in place between two stretches of input, and when none is."""
    runs = []
    for again in (True, False):
        bench = await answered(serving(MemoryLog()), fed)
        if again:
            await run_in_place(bench.log, rewound(bench), [await plan_of(bench, stream, to)])
        runs.append(await (await answered(bench, [("a", 7), ("b", 7)])).said())
    return runs[0], runs[1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=12), st.data())
@settings(max_examples=15, deadline=None)
def test_wherever_a_stream_is_run_again_it_repeats_itself_word_for_word_and_the_rest_is_as_if_it_had_not(
    fed: list[Fed], data: st.DataObject
) -> None:
    assume(any(value for _, value in fed))
    stream = data.draw(st.sampled_from([name for name, value in fed if value]))
    first = next(n for n, (name, value) in enumerate(fed) if name == stream and value)
    to = data.draw(st.integers(first, len(fed)))
    again, once = asyncio.run(said_in_all(fed, stream, to))
    assert compare(again, once).differences == []
    repeated = Counter(message.id for message in again) - Counter(message.id for message in once)
    mine = [message.id for message in once if getattr(message.body, "stream", "") == stream]
    expected = {name for name in mine if to <= int(name.split("/")[2]) < len(fed)}
    assert expected <= set(repeated)
    assert {fed[int(name.split("/")[2])][0] for name in repeated} <= {stream}
    assert set(repeated.values()) <= {1}
