"""Promises 3 and 5 while versions change: killed at any commit, each record is answered once, by one version."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import streamer
from models.contract import Outputs, State
from streamer.codecs.messages import Envelope, Prediction, StreamEvent
from streamer.records import NewRecord
from streamer.settings import MemorySettings, Settings
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.models import RunningSum
from streamer.testing.serving import event

Policy = Literal["finish", "reset", "warm_up"]
Batch = list[tuple[str, int]]
"""Records that come together: stream and value."""


class Hundredfold(RunningSum):
    """The next version: it says a hundred times as much."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return {**outputs, "y": outputs["y"] * 100}, after


OLD = streamer.wrap(RunningSum(), name="adder", version="1")
NEW = streamer.wrap(Hundredfold(), name="adder", version="2")


def app(log: streamer.Log, policy: Policy, model: streamer.Bundle, also: Sequence[streamer.Bundle]) -> streamer.App:
    pipeline = {
        "input": {"topic": "in", "partitions": 1},
        "model": "adder",
        "at_model_change": policy,
        "warm_up_s": 0.002,
        "commit": {"commit_interval_ms": 1, "snapshot_interval_ms": 60_000},
    }
    chosen = Settings(log=MemorySettings(kind="memory"), pipelines={"sums": pipeline}, feeds=[])
    return streamer.App(chosen, log=log, models={"sums": model}, also={"sums": also})


async def outcome(policy: Policy, before: Batch, after: Batch, deaths: Sequence[int]) -> list[Envelope]:
    """What is said of `before` and, once the new version was taken up, `after`, by workers that die at commits."""
    async with streamer.MemoryLog() as log:
        fed = False
        for first, death in enumerate([*deaths, None]):
            dying = BrokenLog(log, death, atomic=True)
            serving = app(dying, policy, *((NEW, [OLD]) if first else (OLD, [])))
            try:
                async with serving:
                    if not first:
                        await log.append("in", 0, records(before, 0))
                        await serving.drained()
                        await serving.take_up(NEW)
                    if not fed:
                        await log.append("in", 0, records(after, len(before)))
                        fed = True
                    await serving.drained()
            except Died:
                continue
        async with app(log, policy, NEW, [OLD]) as last:
            if not fed:
                await log.append("in", 0, records(after, len(before)))
            await last.drained()
            return [message async for message in last.outputs(from_start=True, until_drained=True)]


def records(batch: Batch, start_ms: int) -> list[NewRecord]:
    return [event(stream, value, time_ms=start_ms + i) for i, (stream, value) in enumerate(batch)]


def check(messages: Sequence[Envelope], policy: Policy, whole: Batch) -> None:
    """Every record once; the old version below a stream's change, the new one from it on; sums as they must be."""
    ids = Counter(message.id for message in messages)
    assert not [i for i, count in ids.items() if count > 1]
    answers: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
    changed: dict[str, int] = {}
    for message in messages:
        offset = int(message.id.split("/")[2])
        body = message.body
        if isinstance(body, Prediction) and body.outputs:
            answers[body.stream].append((offset, message.model[:7], body.outputs["y"][0]))
        elif isinstance(body, StreamEvent) and body.event == "model_changed":
            changed[body.stream] = offset
    assert sum(map(len, answers.values())) == len(whole)
    for stream, said in answers.items():
        values = [(offset, value) for offset, (name, value) in enumerate(whole) if name == stream]
        begins = changed.get(stream)
        assert [(offset, model) for offset, model, _ in sorted(said)] == [
            (offset, "adder-1" if said_by_old(offset, begins, said) else "adder-2") for offset, _ in values
        ]
        assert policy != "finish" or begins is None
        total = 0
        for (offset, model, y), (_, value) in zip(sorted(said), values, strict=True):
            if offset == begins:
                last_two = [v for o, v in values if o < offset and o >= offset_of_last(values, offset) - 2]
                total = sum(last_two) if policy == "warm_up" else 0
            total += value
            assert y == total * (1 if model == "adder-1" else 100)


def offset_of_last(values: Sequence[tuple[int, int]], before: int) -> int:
    return max(offset for offset, _ in values if offset < before)


def said_by_old(offset: int, begins: int | None, said: Sequence[tuple[int, str, float]]) -> bool:
    """A stream that changed over was the old one's below; one that did not has one version for all."""
    return offset < begins if begins is not None else min(said)[1] == "adder-1"


BEFORE: Batch = [("a", 1), ("b", 2), ("a", 3), ("a", 4)]
AFTER: Batch = [("a", 5), ("c", 6), ("a", 7), ("b", 8), ("c", 9), ("a", 1)]


@pytest.mark.parametrize("policy", ["finish", "reset", "warm_up"])
async def test_killed_at_any_commit_of_a_swap_no_record_is_lost_doubled_or_said_by_two(policy: Policy) -> None:
    for death in range(6):
        check(await outcome(policy, BEFORE, AFTER, [death]), policy, BEFORE + AFTER)


BATCH = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["finish", "reset", "warm_up"]), BATCH, BATCH, st.lists(st.integers(0, 6), max_size=3))
def test_any_history_killed_at_any_commits_is_answered_by_one_version_a_record(
    policy: Policy, before: Batch, after: Batch, deaths: list[int]
) -> None:
    check(asyncio.run(outcome(policy, before, after, deaths)), policy, before + after)
