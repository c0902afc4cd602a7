"""What users may import: the names are pinned, and embedding a pipeline takes ten lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import streamer
from streamer.testing.models import RunningSum

NAMES = [
    "Alert",
    "AlertOptions",
    "App",
    "AudioDecoder",
    "AudioFileFeed",
    "Bundle",
    "CommitOptions",
    "DeadLetter",
    "EngineOptions",
    "Envelope",
    "EventDecoder",
    "Feed",
    "FinalTranscript",
    "InputOptions",
    "KafkaLog",
    "Log",
    "MemoryLog",
    "MicrophoneFeed",
    "NewRecord",
    "Outputs",
    "PartialTranscript",
    "PipelineOptions",
    "Prediction",
    "Record",
    "Settings",
    "Signature",
    "SqliteLog",
    "State",
    "StreamEvent",
    "StreamModel",
    "StreamOptions",
    "StreamerError",
    "TableFeed",
    "Task",
    "TranscriptOptions",
    "Word",
    "load_settings",
    "pipeline",
    "wrap",
]


class Numbers:
    """A user's own feed: one stream of numbers."""

    name = "numbers"
    live = False

    def __init__(self, values: Sequence[int]) -> None:
        self.values = values

    async def batches(self) -> AsyncIterator[Sequence[streamer.NewRecord]]:
        for seq, value in enumerate(self.values):
            headers = [("x-session", b"one"), ("x-seq", str(seq).encode())]
            yield [streamer.NewRecord(b"adder", json.dumps({"value": value}).encode(), headers, seq)]


def test_the_public_names_are_these() -> None:
    assert sorted(NAMES) == streamer.__all__


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(streamer, name) is not None for name in streamer.__all__)


def test_importing_streamer_and_its_engine_needs_no_settings_log_or_message_packages() -> None:
    code = (
        "import sys, streamer, streamer.worker.engine, models.bundle;"
        "print([m for m in ('pydantic', 'msgspec', 'aiokafka', 'sounddevice') if m in sys.modules])"
    )
    root = Path(streamer.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


async def test_a_users_own_model_and_feed_run_in_a_few_lines() -> None:
    model = streamer.wrap(RunningSum(), name="adder")
    sums = []
    async with streamer.pipeline(model) as app:
        await app.feed(Numbers([1, 2, 3, 4]))
        async for output in app.outputs("predictions", until_drained=True):
            assert isinstance(output.body, streamer.Prediction)
            assert output.body.outputs is not None
            sums.append(output.body.outputs["y"][0])
    assert sums == [1.0, 3.0, 6.0, 10.0]


async def test_state_lives_in_the_log_and_not_in_the_app() -> None:
    model = streamer.wrap(RunningSum(), name="adder")
    last = 0.0
    async with streamer.MemoryLog() as log:
        for values in ([5, 6], [7]):
            async with streamer.pipeline(model, log=log) as app:
                start = 0 if values[0] == 5 else 2
                await app.feed(Continued(values, start))
                async for output in app.outputs("predictions", until_drained=True):
                    assert isinstance(output.body, streamer.Prediction)
                    assert output.body.outputs is not None
                    last = output.body.outputs["y"][0]
    assert last == 18.0


class Continued(Numbers):
    """The same session, going on at a later number."""

    def __init__(self, values: Sequence[int], start: int) -> None:
        super().__init__(values)
        self.start = start

    async def batches(self) -> AsyncIterator[Sequence[streamer.NewRecord]]:
        for seq, value in enumerate(self.values, self.start):
            headers = [("x-session", b"one"), ("x-seq", str(seq).encode())]
            yield [streamer.NewRecord(b"adder", json.dumps({"value": value}).encode(), headers, seq)]
