"""A worker that was paused in the middle of a commit wakes at any time and goes on with it: nobody believes its states.

The log has no transactions and its changelog is compacted to the end whenever somebody reads it, so that a late record
takes the place of every earlier one under its key.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.messages import Body
from streamer.log.memory import MemoryLog
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.compacted_log import CompactedLog
from tests.properties.test_crash_anywhere import (
    History,
    answers_in,
    decisions_in,
    eighths,
    expected,
    histories,
    serving,
)

LATER = 1000


class Pause(NamedTuple):
    """A worker is paused before its write number `at`. It wakes before the write `until` of one that comes later, and
    is killed when it has made so many `more` writes."""

    at: int
    successor: int
    until: int
    more: int


async def outcome(history: History, pauses: list[Pause], snapshot_interval_ms: int = 1) -> tuple[dict[str, Body], int]:
    """What was said by id; each worker takes over from the one before, which sleeps. And the last one's writes."""
    log = CompactedLog(MemoryLog(tombstone_retention_ms=0))
    bench = serving(log, history, snapshot_interval_ms)
    await bench.create_topics()
    asleep: list[tuple[Pause, int, BrokenLog]] = []

    async def wake(worker: int, write: int) -> None:
        for sleeper in [s for s in asleep if (s[1] + 1 + s[0].successor, s[0].until) <= (worker, write)]:
            asleep.remove(sleeper)
            await sleeper[2].wake(sleeper[0].more)

    turns = len(pauses) + 1
    for number in range(turns):
        for partition, records in enumerate(history):
            await bench.feed(records[number * len(records) // turns : (number + 1) * len(records) // turns], partition)
        at = pauses[number].at if number < len(pauses) else None
        last = BrokenLog(log, at, meanwhile=partial(wake, number))
        if at is None:
            await wake(LATER, LATER)
        try:
            await bench.serve(last)
        except Died:
            asleep.append((pauses[number], number, last))
    said: dict[str, Body] = {}
    for message in await bench.said():
        assert said.setdefault(message.id, message.body) == message.body, "one id, two meanings"
    return said, last.written


DECISIONS = [[eighths("a", value) for value in (6, -6, 7, -7, 8, 1)]]
"""Nearly each of these fires or resolves, so that its stream's state is saved with it."""


@pytest.mark.parametrize("more", range(6))
async def test_what_a_paused_worker_writes_when_two_others_have_taken_over_changes_nothing(more: int) -> None:
    whole, writes = await outcome(DECISIONS, [])
    for at in range(writes):
        said, _ = await outcome(DECISIONS, [Pause(at, 2, 0, more), Pause(LATER, 0, 0, 0)])
        assert said == whole, f"paused before write {at}"


async def test_each_owner_may_be_paused_and_all_wake_in_the_end() -> None:
    whole, writes = await outcome(DECISIONS, [])
    for at in range(writes):
        said, _ = await outcome(DECISIONS, [Pause(at + n, LATER, 0, 3) for n in range(3)])
        assert said == whole, f"paused before write {at}"


PAUSES = st.builds(Pause, st.integers(0, 12), st.integers(0, 2), st.integers(0, 8), st.integers(0, 5))


@settings(max_examples=100, deadline=None)
@given(histories(), st.lists(PAUSES, min_size=1, max_size=4), st.sampled_from([1, 60_000]))
def test_any_history_with_workers_paused_and_woken_at_any_writes_is_answered_as_the_whole_one(
    history: History, pauses: list[Pause], snapshot_interval_ms: int
) -> None:
    said, _ = asyncio.run(outcome(history, pauses, snapshot_interval_ms))
    whole, _ = asyncio.run(outcome(history, []))
    assert answers_in(said) == expected(history)
    assert decisions_in(said) == decisions_in(whole)
    assert said.keys() == whole.keys()
