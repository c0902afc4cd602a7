"""The voice gate: what travels on, with its place, however the signal was cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sensor.hysteresis import AlertRule
from streamer.codecs.audio import AudioDecoder
from streamer.codecs.base import Decoded
from streamer.codecs.messages import Encoder, Output, VoicedAudio
from streamer.errors import StateMismatch
from streamer.records import Record
from streamer.tasks.base import TaskBatch
from streamer.tasks.gate import VoiceGateTask

CHUNK = 100
GATE = VoiceGateTask(AlertRule(0.5, 0.3, 0.0), rate_hz=4000, pre_roll_s=0.0375, hang_over_s=0.05)


@dataclass
class View:
    """A stream as the task sees it."""

    task: Any
    id: str = "mic"
    key: bytes | None = b"mic"
    first_offset: int = 7
    last_offset: int = 0
    last_ms: int = 0
    started_ms: int = 0
    clock_samples: int = 0


def heard(probabilities: list[float]) -> list[VoicedAudio]:
    """What the gate sends of chunks with these speech probabilities; sample i of the signal is i / 32768."""
    view = View(GATE.initial(0))
    sent: list[Output] = []
    for n, probability in enumerate(probabilities):
        samples = (np.arange(n * CHUNK, (n + 1) * CHUNK) / 32768).astype(np.float32)[:, None]
        outputs = {"probability": np.array([[probability]], np.float32)}
        states, said = GATE.advance(TaskBatch([view], [n], [n * 100], [samples], outputs, np.array([1])))
        view.task = GATE.load(GATE.dump(states[0]))
        sent += said[0]
    return [body for output in [*sent, *GATE.finish(view)] if isinstance(body := output.body, VoicedAudio)]


def places(sent: list[VoicedAudio]) -> list[int]:
    """The places on the stream's clock of all samples that were sent."""
    found: list[int] = []
    for body in sent:
        values = np.frombuffer(body.pcm, "<i2").tolist()
        assert values == list(range(body.sample_index, body.sample_index + len(values)))
        found += values
    return found


def test_silence_sends_nothing_not_even_an_end() -> None:
    assert heard([0.0] * 10) == []


def test_speech_travels_on_with_its_pre_roll_and_its_hang_over() -> None:
    sent = heard([0.0, 0.0, 0.0, 0.9, 0.9, 0.1, 0.1, 0.1, 0.0])
    assert places(sent) == list(range(150, 700))  # 150 samples before chunk 3, two quiet chunks behind chunk 4


def test_a_short_pause_does_not_close_the_gate() -> None:
    assert places(heard([0.9, 0.1, 0.9])) == list(range(300))


def test_the_end_of_the_source_travels_on_behind_what_was_said() -> None:
    last = heard([0.9, 0.9])[-1]
    assert (last.eos, last.pcm, last.sample_index) == (True, b"", 200)


@given(st.lists(st.sampled_from([0.0, 0.4, 0.9]), max_size=40))
def test_no_sample_is_sent_twice_or_out_of_order_and_no_speech_is_lost(probabilities: list[float]) -> None:
    sent = places(heard(probabilities))
    assert sent == sorted(set(sent))
    spoken = {n * CHUNK for n, probability in enumerate(probabilities) if probability == 0.9}
    assert spoken <= set(sent)


def test_saved_state_of_another_shape_is_refused() -> None:
    with pytest.raises(StateMismatch):
        GATE.load([True, 1])


def test_what_is_sent_is_an_audio_record_that_the_next_pipeline_understands() -> None:
    (body, *_) = heard([0.9])
    cause = Record("audio", 0, 7, 0, b"mic", None, ())
    new = Encoder("app/group/pipeline/live", "vad-1@0").encode(Output(body, b"mic", "voiced", 0, 5, True), cause)
    there = Record("voiced", 0, 0, new.timestamp_ms or 0, new.key, new.value, new.headers)
    (decoded,) = AudioDecoder().decode([there])
    assert isinstance(decoded, Decoded)
    assert (decoded.stream, decoded.rate_hz, decoded.sample_index, decoded.session) == ("mic", 4000, 0, "7")
