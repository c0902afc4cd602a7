"""A new version of a model is taken up while streams live: nothing is lost, doubled or gone on with by another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor

import streamer
from models.contract import Outputs, State
from streamer.codecs.messages import Envelope, Prediction, StreamEvent
from streamer.errors import ConfigurationError
from streamer.records import NewRecord
from streamer.settings import MemorySettings, Settings
from streamer.testing.models import RunningSum


class Hundredfold(RunningSum):
    """The next version of the running sum: it says a hundred times as much."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return {**outputs, "y": outputs["y"] * 100}, after


OLD = streamer.wrap(RunningSum(), name="adder", version="1")
NEW = streamer.wrap(Hundredfold(), name="adder", version="2")


def numbers(stream: str, *values: int, from_s: int = 0) -> list[NewRecord]:
    """Events a second apart."""
    return [
        NewRecord(stream.encode(), json.dumps({"value": value}).encode(), (), (from_s + i) * 1000)
        for i, value in enumerate(values)
    ]


def app(
    log: streamer.Log, model: streamer.Bundle = OLD, also: Sequence[streamer.Bundle] = (), **options: Any
) -> streamer.App:
    pipeline = {
        "input": {"topic": "in", "partitions": 1},
        "model": "adder",
        "commit": {"commit_interval_ms": 5, "snapshot_interval_ms": 5},
        **options,
    }
    settings = Settings(log=MemorySettings(kind="memory"), pipelines={"sums": pipeline}, feeds=[])
    return streamer.App(settings, log=log, models={"sums": model}, also={"sums": also})


async def feed(serving: streamer.App, records: Sequence[NewRecord]) -> None:
    """Append and wait until all is answered."""
    await serving.log.append("in", 0, records)
    await serving.drained()


async def said(serving: streamer.App) -> list[Envelope]:
    return [message async for message in serving.outputs(from_start=True, until_drained=True)]


def sums(messages: Sequence[Envelope], stream: str) -> list[tuple[str, float]]:
    """Which version said what of a stream."""
    return [
        (message.model.partition("@")[0], message.body.outputs["y"][0])
        for message in messages
        if isinstance(message.body, Prediction) and message.body.stream == stream and message.body.outputs
    ]


def changes(messages: Sequence[Envelope]) -> list[tuple[str, int]]:
    """The streams that changed over, each with the offset of its first record in the new version."""
    return [
        (message.body.stream, int(message.id.split("/")[2]))
        for message in messages
        if isinstance(message.body, StreamEvent) and message.body.event == "model_changed"
    ]


async def test_streams_finish_with_their_version_and_new_ones_begin_with_the_new_version() -> None:
    async with streamer.MemoryLog() as log, app(log) as serving:
        await feed(serving, numbers("a", 1, 2))
        await serving.take_up(NEW)
        await feed(serving, [*numbers("a", 3, from_s=2), *numbers("b", 1, 2)])
        messages = await said(serving)
        assert serving.status()["sums"].model == NEW.tag
    assert sums(messages, "a") == [("adder-1", 1), ("adder-1", 3), ("adder-1", 6)]
    assert sums(messages, "b") == [("adder-2", 100), ("adder-2", 300)]
    assert changes(messages) == []


async def test_with_reset_a_stream_changes_over_at_its_next_record_with_a_fresh_state_and_says_so() -> None:
    async with streamer.MemoryLog() as log, app(log, at_model_change="reset") as serving:
        await feed(serving, [*numbers("a", 1, 2), *numbers("b", 5)])
        await serving.take_up(NEW)
        await feed(serving, numbers("a", 3, 4, from_s=2))
        messages = await said(serving)
    assert sums(messages, "a") == [("adder-1", 1), ("adder-1", 3), ("adder-2", 300), ("adder-2", 700)]
    assert changes(messages) == [("a", 3)]  # b has had no record since


async def test_with_warm_up_the_new_version_has_stepped_the_latest_input_and_said_nothing_of_it() -> None:
    async with streamer.MemoryLog() as log, app(log, at_model_change="warm_up", warm_up_s=2) as serving:
        await feed(serving, [*numbers("a", 1, 2, 3, 4), *numbers("b", 9)])
        await serving.take_up(NEW)
        await feed(serving, numbers("a", 5, from_s=4))
        messages = await said(serving)
    assert sums(messages, "a") == [*[("adder-1", y) for y in (1, 3, 6, 10)], ("adder-2", 100 * (2 + 3 + 4 + 5))]
    assert changes(messages) == [("a", 5)]


async def test_a_saved_state_goes_on_in_the_version_that_it_names() -> None:
    async with streamer.MemoryLog() as log:
        async with app(log) as first:
            await feed(first, numbers("a", 1, 2))
            await first.take_up(NEW)
            await feed(first, numbers("b", 1))
        async with app(log, NEW, [OLD]) as second:
            await feed(second, [*numbers("a", 3, from_s=2), *numbers("b", 2, from_s=1)])
            messages = await said(second)
    assert sums(messages, "a")[-1] == ("adder-1", 6)
    assert sums(messages, "b")[-1] == ("adder-2", 300)


async def test_a_state_of_a_version_that_is_not_at_hand_is_warmed_up_where_the_policy_says_so() -> None:
    async with streamer.MemoryLog() as log:
        async with app(log) as first:
            await feed(first, numbers("a", 1, 2, 3, 4))
        async with app(log, NEW, on_state_mismatch="warm_up", warm_up_s=1) as second:
            await feed(second, numbers("a", 5, from_s=4))
            messages = await said(second)
    assert sums(messages, "a")[-1] == ("adder-2", 100 * (3 + 4 + 5))
    assert changes(messages) == [("a", 4)]


async def test_a_model_that_takes_something_else_is_not_taken_up_and_the_old_one_goes_on() -> None:
    async with streamer.MemoryLog() as log, app(log) as serving:
        await feed(serving, numbers("a", 1))
        with pytest.raises(ConfigurationError, match="2 x events"):
            await serving.take_up(streamer.wrap(RunningSum(channels=2), name="pairs"))
        await feed(serving, numbers("a", 2, from_s=1))
        assert sums(await said(serving), "a") == [("adder-1", 1), ("adder-1", 3)]


async def test_what_was_taken_up_twice_is_held_once() -> None:
    async with streamer.MemoryLog() as log, app(log, at_model_change="reset") as serving:
        await feed(serving, numbers("a", 1))
        for model in (NEW, OLD, NEW, OLD):
            await serving.take_up(model)
        await feed(serving, numbers("a", 2, from_s=1))
        messages = await said(serving)
    assert sums(messages, "a") == [("adder-1", 1), ("adder-1", 3)]
    assert changes(messages) == []
