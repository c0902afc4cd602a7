"""A small stream with a bit of everything in its state, so that what an old version saved of it can be kept in a file.

Sound at 8 kHz goes through the resampler into a network of exact arithmetic that spells a text, frame by frame; a beam
search over it is in the middle of the second segment when the state is saved.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.contract import Outputs, Signature, State
from models.speech import ngram
from models.speech.beam import BeamDecoder, Search
from models.speech.hypothesis import Endpointing
from models.speech.lexicon import lexicon_of
from models.speech.text import VOCABULARY, encode
from streamer.codecs.audio import AudioDecoder, audio_record
from streamer.log.base import Log
from streamer.options import EngineOptions, PipelineOptions
from streamer.records import NewRecord
from streamer.tasks.transcript import TranscriptTask
from streamer.testing.serving import Serving, options_of

RATE_HZ, SOURCE_HZ = 16_000, 8_000
FRAME = 1600
SCRIPT = "a b ab|||||ba b ab ab|||||ab"
"""What the records say, one letter each; `|` is silence."""
SAVED_AFTER = 17
"""Records that the saved state contains: the first segment is over, words of the second are known."""


class Speller:
    """Says the next letter of `SCRIPT` for every chunk that is not silent.

    State: `said`, (B, 1) int64, letters so far; `level`, (B, 2, 3) float32, small integers.
    """

    signature = Signature(
        input="audio",
        rate_hz=RATE_HZ,
        channels=1,
        chunk_samples=FRAME,
        samples_per_frame=FRAME,
        latency_samples=0,
        outputs=("log_probs",),
    )

    def init_state(self, batch: int) -> State:
        return {"said": torch.zeros(batch, 1, dtype=torch.int64), "level": torch.zeros(batch, 2, 3)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        loud = (x[:, :, 0].abs().amax(1) > 0.1) & (lengths > 0)
        letters = torch.tensor(encode(SCRIPT.replace("|", "")))
        label = torch.where(loud, letters[state["said"][:, 0] % len(letters)], 0)
        sure = 0.6 + (state["level"][:, 0, 0] % 4) / 20
        chances = ((1 - sure) / (VOCABULARY - 1))[:, None].repeat(1, VOCABULARY)
        chances[torch.arange(len(label)), label] = sure
        level = state["level"] + loud[:, None, None] * torch.arange(1.0, 7.0).reshape(2, 3)
        outputs = {"log_probs": chances.log()[:, None], "lengths": (lengths > 0).long()}
        return outputs, {"said": state["said"] + loud[:, None], "level": level}


def task() -> TranscriptTask:
    """A beam search over four words; a segment ends after three silent frames."""
    model = ngram.estimate([["a", "ab", "b"], ["ba", "ab", "a"]], ["a", "ab", "b", "ba"], trigram_cut=0)
    decoder = BeamDecoder(model, lexicon_of(model), Search(beam=8), Endpointing(silence_frames=3))
    return TranscriptTask(decoder, rate_hz=RATE_HZ, samples_per_frame=FRAME, partial_every_ms=300)


def options() -> PipelineOptions:
    return options_of(engine=EngineOptions(device="cpu", max_batch=4, slots=4))


def serving(log: Log) -> Serving:
    """The stream's pipeline."""
    return Serving(log, Speller, options(), task=task(), decoder=AudioDecoder(rate_hz=SOURCE_HZ))


def records(stream: str = "mic") -> list[NewRecord]:
    """The whole stream, a letter a record; it has no end."""
    samples = FRAME * SOURCE_HZ // RATE_HZ
    tone = (12_000 * np.sin(np.arange(samples) * 0.3)).astype(np.int16)
    return [
        audio_record(
            stream,
            tone if letter != "|" else np.zeros(samples, np.int16),
            rate_hz=SOURCE_HZ,
            session="first",
            seq=number,
            sample_index=number * samples,
            time_ms=1_700_000_000_000 + number * 100,
        )
        for number, letter in enumerate(SCRIPT)
    ]


def last_words(stream: str, number: int) -> NewRecord:
    """The end of a stream after `number` records."""
    samples = FRAME * SOURCE_HZ // RATE_HZ
    return audio_record(
        stream, np.zeros(samples, np.int16), rate_hz=SOURCE_HZ, session="first", seq=number,
        sample_index=number * samples, time_ms=1_700_000_000_000 + number * 100, eos=True,
    )  # fmt: skip
