"""Audio through the worker: sample rates, gaps and the end of a stream, counted by a model that sums samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import streamer
from models.contract import Outputs, Signature, State
from streamer.codecs.audio import AudioDecoder, audio_record
from streamer.codecs.base import Decoded
from streamer.codecs.messages import Encoder, Envelope, Prediction, StreamEvent
from streamer.options import EngineOptions, InputOptions, PipelineOptions
from streamer.records import NewRecord, Record
from streamer.tasks.prediction import PredictionTask
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.engine import Engine
from streamer.worker.item import Item
from streamer.worker.outbox import Outbox
from streamer.worker.results import StreamKey
from streamer.worker.stepper import Stepper
from streamer.worker.version import Version, Versions

RATE_HZ = 16_000
DETERMINISTIC = EngineOptions(max_batch=4, slots=8, deterministic=True, device="cpu")


class SampleCounter:
    """An audio model whose output `y` is how many samples a stream has had, and how many of them were not silent."""

    signature = Signature(
        input="audio",
        rate_hz=RATE_HZ,
        channels=1,
        chunk_samples=1600,
        samples_per_frame=1600,
        latency_samples=0,
        outputs=("y",),
    )

    def init_state(self, batch: int) -> State:
        return {"counts": torch.zeros(batch, 2)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        loud = (x[:, :, 0] != 0).sum(1)
        counts = state["counts"] + torch.stack([lengths, loud], 1)
        return {"y": counts[:, None], "lengths": (lengths > 0).long()}, {"counts": counts}


def chunk(
    seq: int, at: int, samples: int, *, rate_hz: int = RATE_HZ, eos: bool = False, stream: str = "mic"
) -> NewRecord:
    """A loud record of one microphone."""
    loud = np.full(samples, 1000, np.int16)
    return audio_record(stream, loud, rate_hz, session="s", seq=seq, sample_index=at, time_ms=1000 + seq, eos=eos)


async def heard(records: list[NewRecord], settings: dict[str, Any] | None = None, **options: Any) -> list[Envelope]:
    """What a pipeline says of these records."""
    model = streamer.wrap(SampleCounter(), name="counter", settings=settings)
    async with streamer.MemoryLog() as log, streamer.pipeline(model, log=log, **options) as app:
        await log.append("main-input", 0, records)
        return [message async for message in app.outputs(until_drained=True)]


def counts(said: list[Envelope]) -> list[list[float]]:
    return [m.body.outputs["y"] for m in said if isinstance(m.body, Prediction) and m.body.outputs]


def events(said: list[Envelope]) -> list[str]:
    return [m.body.event for m in said if isinstance(m.body, StreamEvent)]


async def test_samples_of_the_models_own_rate_reach_it_as_they_are() -> None:
    said = await heard([chunk(0, 0, 1600), chunk(1, 1600, 800)])
    assert counts(said)[-1] == [2400, 2400]


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
async def test_another_sample_rate_is_converted_to_the_last_sample(rate_hz: int) -> None:
    tenth = rate_hz // 10
    said = await heard([chunk(n, n * tenth, tenth, rate_hz=rate_hz, eos=n == 9) for n in range(10)])
    assert counts(said)[-1][0] == RATE_HZ


async def test_lost_samples_are_stepped_as_silence_and_told() -> None:
    said = await heard([chunk(0, 0, 1600), chunk(2, 4800, 1600)])
    assert counts(said)[-1] == [6400, 3200]
    assert events(said) == ["started", "gap"]


async def test_a_gap_over_the_limit_is_not_filled_but_resets_the_stream() -> None:
    said = await heard([chunk(0, 0, 1600), chunk(50, 80_000, 1600)])
    assert counts(said)[-1] == [1600, 1600]
    assert events(said) == ["started", "gap", "reset"]


async def test_a_sample_rate_that_changes_in_a_session_resets_the_stream() -> None:
    said = await heard([chunk(0, 0, 1600), chunk(1, 1600, 800, rate_hz=8_000)])
    assert events(said) == ["started", "reset"]
    reset = next(m.body for m in said if isinstance(m.body, StreamEvent) and m.body.event == "reset")
    assert reset.reason == "sample rate changed from 16000 to 8000 Hz"


async def test_a_sample_rate_that_changes_is_refused_where_the_policy_says_so() -> None:
    streams = streamer.StreamOptions(rate_change="dead_letter")
    said = await heard([chunk(0, 0, 1600), chunk(1, 1600, 800, rate_hz=8_000)], streams=streams)
    assert counts(said) == [[1600, 1600]]
    assert [type(m.body) for m in said].count(streamer.DeadLetter) == 1


@pytest.mark.parametrize("bare", [True, False], ids=["a bare end", "an end with samples"])
async def test_the_end_of_a_stream_is_stepped_with_the_silence_its_model_asks_for(bare: bool) -> None:
    last = 0 if bare else 1600
    records = [chunk(0, 0, 1600), chunk(1, 1600, last, eos=True)]
    said = await heard(records, settings={"decoder": {"flush_samples": 8000}})
    assert counts(said)[-1] == [1600 + last + 8000, 1600 + last]
    assert events(said) == ["started", "ended"]


async def test_a_record_of_many_seconds_is_stepped_in_pieces_with_one_answer_each() -> None:
    said = await heard([chunk(0, 0, 20 * RATE_HZ)])
    assert counts(said)[-1] == [20 * RATE_HZ, 20 * RATE_HZ]
    assert [m.id.rsplit("/", 1)[1] for m in said if isinstance(m.body, Prediction)] == [str(n) for n in range(50)]


class Watched(SampleCounter):
    """Notes how many rows of each step hold samples."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        self.rows.append(int((lengths > 0).sum()))
        return super().step(x, lengths, state)


async def test_in_deterministic_mode_the_pieces_of_long_records_share_steps_with_other_streams() -> None:
    model = Watched()
    records = [chunk(0, 0, 4 * 1600, stream=f"mic-{n}") for n in range(6)]
    async with (
        streamer.MemoryLog() as log,
        streamer.pipeline(streamer.wrap(model, name="counter"), log=log, engine=DETERMINISTIC) as app,
    ):
        await log.append("main-input", 0, records)
        said = [message async for message in app.outputs(until_drained=True)]
    assert sorted(count for count, _ in counts(said)) == sorted([1600, 3200, 4800, 6400] * 6)
    assert model.rows == [4] * 6  # 24 pieces; each stream alone to its end would have made 8 steps


def test_a_stream_in_the_middle_of_a_record_is_neither_saved_nor_idle() -> None:
    options = PipelineOptions(input=InputOptions(topic="input"), model="counter", engine=DETERMINISTIC)
    encoder = Encoder("app/group/pipeline/live", "counter-1@0")
    outbox = Outbox(encoder, DeadLetters(encoder, 1_000_000, "unused"), ())
    engine = Engine(SampleCounter(), DETERMINISTIC)
    stepper = Stepper(Versions(Version("counter-1@0", engine, PredictionTask(("y",)), outbox, options)), options)
    key, sent = StreamKey(0, "mic"), chunk(0, 0, 2 * 1600)
    record = Record("input", 0, 7, 1000, sent.key, sent.value, sent.headers)
    (decoded,) = AudioDecoder().decode([record])
    assert isinstance(decoded, Decoded)
    first = stepper.run([(key, [Item(key, record, decoded)])])
    assert (first[0].finished, stepper.table.copies([key]), stepper.table.idle_since(10**15, 0)) == ([], [], [])
    second = stepper.run([(key, first.begun)])
    assert (second[0].finished, second.begun) == ([7], [])
    assert [copy.position for copy in stepper.table.copies([key])] == [8]
    assert stepper.table.idle_since(10**15, 0) == [key]
