"""What the shipped recognizer writes of a signal that comes to a worker in audio records, cut as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

import streamer
from models import bundle
from models.speech.corpora import Audio
from models.speech.synthesis import Reading, available, speak
from streamer.codecs.audio import audio_record
from streamer.options import InputOptions, PipelineOptions
from streamer.records import NewRecord
from streamer.tasks.base import Task
from streamer.tasks.build import build_task

SPEAKS = pytest.mark.skipif(not available("espeak-ng"), reason="espeak-ng, which reads the fixtures, is not installed")
RATE_HZ = 16_000


@cache
def packaged() -> bundle.Bundle:
    """The shipped model."""
    return bundle.load("speech-en")


@cache
def task() -> Task:
    """The shipped model's own task, which holds nothing of what it hears."""
    return build_task(packaged(), PipelineOptions(input=InputOptions(topic="unused"), model="speech-en"))


@cache
def said(text: str, voice: str = "en-us", speed: float = 0.9) -> Audio:
    """A synthesised sentence, (n,) at 16 kHz."""
    return speak(Reading(text, "espeak-ng", voice, speed))


def records(pcm: NDArray[np.int16], sizes: Sequence[int], rate_hz: int = RATE_HZ) -> list[NewRecord]:
    """One stream in records of `sizes` samples and then what is left, with its end on the last."""
    edges = [0]
    for size in sizes:
        edges.append(min(edges[-1] + size, len(pcm)))
    edges.append(len(pcm))
    cuts = [(a, b) for a, b in pairwise(edges) if a < b]
    return [
        audio_record(
            "mic",
            pcm[begin:end],
            rate_hz,
            session="s",
            seq=seq,
            sample_index=begin,
            time_ms=1000 + begin * 1000 // rate_hz,
            eos=end == len(pcm),
        )
        for seq, (begin, end) in enumerate(cuts)
    ]


async def finals(given: Sequence[NewRecord]) -> list[streamer.FinalTranscript]:
    """The final transcripts of these records, by the shipped model in a worker over a log in memory."""
    async with (
        streamer.MemoryLog() as log,
        streamer.pipeline(packaged(), log=log, task=task()) as app,
    ):
        await log.append("main-input", 0, given)
        outputs = app.outputs("transcripts", until_drained=True)
        return [o.body async for o in outputs if isinstance(o.body, streamer.FinalTranscript)]


def pcm_of(samples: Audio) -> NDArray[np.int16]:
    """As it lies in a record."""
    return np.round(samples * 32767).clip(-32768, 32767).astype(np.int16)
