"""Promise 5: a state that another model wrote is never continued, and what happens instead is said."""

from __future__ import annotations

import json

import pytest

import streamer
from streamer.codecs.messages import Prediction, StreamEvent
from streamer.errors import StateMismatch
from streamer.records import NewRecord
from streamer.settings import MemorySettings, Settings
from streamer.testing.models import RunningSum


def numbers(*values: int) -> list[NewRecord]:
    return [NewRecord(b"adder", json.dumps({"value": value}).encode(), (), 1000) for value in values]


def app(log: streamer.Log, version: str, policy: str) -> streamer.App:
    """The adder in a version of its own."""
    pipeline = {
        "input": {"topic": "in", "partitions": 1},
        "model": "adder",
        "on_state_mismatch": policy,
        "commit": {"commit_interval_ms": 5, "snapshot_interval_ms": 5},
    }
    settings = Settings(log=MemorySettings(kind="memory"), pipelines={"sums": pipeline}, feeds=[])
    return streamer.App(settings, log=log, models={"sums": streamer.wrap(RunningSum(), name="adder", version=version)})


async def left_by_version_one(log: streamer.Log) -> None:
    async with app(log, "1", "refuse") as first:
        await log.append("in", 0, numbers(1, 2))
        await first.drained()


async def test_a_state_of_another_version_is_refused_with_what_to_do_about_it() -> None:
    async with streamer.MemoryLog() as log:
        await left_by_version_one(log)
        with pytest.raises(StateMismatch, match="on_state_mismatch: reset"):
            async with app(log, "2", "refuse") as second:
                await second.failed()


async def test_where_the_policy_says_reset_the_stream_begins_afresh_and_that_is_said() -> None:
    async with streamer.MemoryLog() as log:
        await left_by_version_one(log)
        async with app(log, "2", "reset") as second:
            await log.append("in", 0, numbers(5))
            said = [message.body async for message in second.outputs(until_drained=True)]
    changes = [body for body in said if isinstance(body, StreamEvent) and body.event == "model_changed"]
    assert [(change.stream, "adder-1@" in change.reason) for change in changes] == [("adder", True)]
    assert [body.outputs for body in said if isinstance(body, Prediction)] == [{"y": [5.0]}]
