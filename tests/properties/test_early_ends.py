"""Promise 3 with ends by the wall clock: killed at any write, each end is told under one id and nothing is lost.

Every event is from 1970, so a stream is idle as soon as its partition is read to the end. A worker looks for idle
streams once a second; therefore the crash points of one history are tried side by side.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.messages import Body, Envelope, Prediction, StreamEvent
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, StreamOptions
from streamer.records import NewRecord
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.faults import Gate, Held
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of

History = list[list[NewRecord]]
"""The input, a list a partition."""
ONE_AT_A_TIME = EngineOptions(max_batch=1, slots=2, deterministic=True, device="cpu")
EARLY = StreamOptions(ttl_s=1.0, end_early=True)


def serving(history: History, snapshot_interval_ms: int) -> Serving:
    commit = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=snapshot_interval_ms)
    return Serving(
        MemoryLog(), RunningSum, options_of(len(history), engine=ONE_AT_A_TIME, streams=EARLY, commit=commit)
    )


def events(said: Sequence[Envelope], kind: str) -> dict[str, list[int]]:
    """Offsets at which `kind` was told, each id once, by the stream: its partition and key."""
    found: dict[str, set[int]] = defaultdict(set)
    for message in said:
        if isinstance(message.body, StreamEvent) and message.body.event == kind:
            _, partition, offset, *_ = message.id.split("/")
            found[f"{partition}/{message.subject}"].add(int(offset))
    return {stream: sorted(offsets) for stream, offsets in found.items()}


async def all_ended(bench: Serving) -> bool:
    """Whether every stream that was ever told to have started is told to have ended as often."""
    said = await bench.said()
    started, ended = events(said, "started"), events(said, "ended")
    return {s: len(o) for s, o in started.items()} == {s: len(o) for s, o in ended.items()}


async def outcome(
    history: History,
    deaths: Sequence[int],
    snapshot_interval_ms: int = 1,
    *,
    late: Sequence[NewRecord] = (),
    atomic: bool = False,
) -> tuple[dict[str, Body], int]:
    """What was said by id until all streams had ended, after dying at these writes; and the writes of the last run.

    late: records of partition 0 that come when all deaths are behind. atomic: a commit is one write.
    """
    bench = serving(history, snapshot_interval_ms)
    await bench.create_topics()
    for partition, records in enumerate(history):
        await bench.feed(records, partition)
    for writes in deaths:
        try:
            await bench.serve(BrokenLog(bench.log, writes, atomic=atomic), until=lambda: all_ended(bench))
        except Died:
            continue
    await bench.feed(late)
    last = BrokenLog(bench.log, atomic=atomic)
    await bench.serve(last, until=lambda: all_ended(bench))
    said: dict[str, Body] = {}
    for message in await bench.said():
        assert said.setdefault(message.id, message.body) == message.body, "one id, two meanings"
    return said, last.written


HISTORY: History = [
    [event("a", 3), event("b", 1), event("a", 4, time_ms=10), event("b", 2, x_eos="1"), event("a", 1, time_ms=5000)],
    [event("c", 1), event("d", 5), event("c", 5)],
]


@pytest.mark.parametrize("snapshot_interval_ms", [1, 60_000], ids=["saved at once", "never saved"])
async def test_killed_before_any_write_every_early_end_has_the_id_it_would_have_had(snapshot_interval_ms: int) -> None:
    whole, writes = await outcome(HISTORY, [], snapshot_interval_ms)
    ends = [i for i, body in whole.items() if isinstance(body, StreamEvent) and body.event == "ended"]
    assert sorted(ends) == [f"input/{p}/{o}/ended/0" for p, o in ((0, 2), (0, 3), (0, 4), (1, 1), (1, 2))]
    assert writes > 10
    interrupted = await asyncio.gather(*(outcome(HISTORY, [n], snapshot_interval_ms) for n in range(writes)))
    for death, (said, _) in enumerate(interrupted):
        assert said == whole, f"killed before write {death}"


RECORDS = st.lists(
    st.builds(
        event,
        st.sampled_from("abc"),
        st.integers(-6, 6),
        x_eos=st.sampled_from(["0", "0", "1"]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(RECORDS, min_size=1, max_size=2),
    st.lists(st.lists(st.integers(0, 14), max_size=3), min_size=8, max_size=8),
    st.sampled_from([1, 60_000]),
)
def test_any_history_killed_at_any_writes_ends_its_streams_as_the_whole_one_does(
    history: History, deaths: list[list[int]], snapshot_interval_ms: int
) -> None:
    async def all_outcomes() -> list[tuple[dict[str, Body], int]]:
        return list(await asyncio.gather(*(outcome(history, tried, snapshot_interval_ms) for tried in ([], *deaths))))

    (whole, _), *interrupted = asyncio.run(all_outcomes())
    for tried, (said, _) in zip(deaths, interrupted, strict=True):
        assert said == whole, f"killed before the writes {tried}"


EARLIER, LATER = [event("a", 1), event("a", 2)], [event("a", 4), event("a", 8)]
Told = tuple[list[tuple[int, str]], list[float]]
ONE_LIFE: Told = [(0, "started"), (3, "ended")], [1.0, 3.0, 7.0, 15.0]
TWO_LIVES: Told = [(0, "started"), (1, "ended"), (2, "started"), (3, "ended")], [1.0, 3.0, 4.0, 12.0]
ENDED_AND_WENT_ON: Told = [(0, "started"), (1, "ended")], [1.0, 3.0, 7.0, 15.0]
ENDED_TWICE: Told = [(0, "started"), (1, "ended"), (3, "ended")], [1.0, 3.0, 7.0, 15.0]
"""Where a commit is several writes, the end may be told and its mark not be written: docs/guarantees.md says so."""


def told_of(said: dict[str, Body]) -> Told:
    """What befell the one stream, and the sums that answered its records, both by offset."""
    offsets = {i: int(i.split("/")[2]) for i in said}
    befell = [(offsets[i], body.event) for i, body in said.items() if isinstance(body, StreamEvent)]
    answers = {
        offsets[i]: body.outputs["y"][0]
        for i, body in said.items()
        if isinstance(body, Prediction) and body.outputs is not None
    }
    return sorted(befell), [answers[offset] for offset in sorted(answers)]


async def test_what_comes_after_an_early_end_begins_a_new_stream_whose_sum_begins_at_nothing() -> None:
    said, _ = await outcome([EARLIER], [1000], late=LATER)
    assert told_of(said) == TWO_LIVES


@pytest.mark.parametrize(
    ("atomic", "possible"),
    [(True, [ONE_LIFE, TWO_LIVES]), (False, [ONE_LIFE, TWO_LIVES, ENDED_AND_WENT_ON, ENDED_TWICE])],
    ids=["a commit is a transaction", "a commit is several writes"],
)
async def test_killed_around_an_early_end_what_comes_late_continues_the_stream_or_begins_another(
    atomic: bool, possible: list[Told]
) -> None:
    _, writes = await outcome([EARLIER], [], atomic=atomic)
    deaths = [*range(writes + 1), 1000]  # the last one is not killed: how many writes a run makes depends on its speed
    tried = await asyncio.gather(*(outcome([EARLIER], [n], late=LATER, atomic=atomic) for n in deaths))
    told = [told_of(said) for said, _ in tried]
    assert ONE_LIFE in told
    assert TWO_LIVES in told
    for death, one in zip(deaths, told, strict=True):
        assert one in possible, f"killed before write {death}"


async def test_a_stream_whose_records_are_read_again_is_not_ended_before_the_last_of_them() -> None:
    """The offset is committed to the end, the state is not saved: what is read again is no stream that idles."""
    history = [[event("a", 1), event("a", 2), event("a", 4), event("a", 8)]]
    gate, open_gate = Gate(), Gate()
    open_gate.release.set()
    options = serving(history, snapshot_interval_ms=60_000).options
    first = Serving(MemoryLog(), lambda: Held(open_gate), options)
    await first.create_topics()
    await first.feed(history[0])
    await first.serve()
    second = Serving(first.log, lambda: Held(gate), first.options)
    async with second.running() as worker:
        assert await asyncio.to_thread(gate.began.wait, 10)
        # Until it has looked for idle streams:
        await second.until(worker, lambda: worker.status().lag_records >= 0 or gate.gave_up)
        gate.release.set()
        await second.until(worker, lambda: worker.status().records == 4 and worker.status().streams == 0)
    assert not gate.gave_up
    assert events(await second.said(), "ended") == {"0/a": [3]}
