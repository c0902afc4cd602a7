"""Score a packaged recognizer: `python -m models.speech.evaluate` prints JSON, one object a line.

Every figure comes twice: `streaming` (100 ms chunks through the model's step and the streaming decoder) and `offline`
(`models.speech.offline` over the whole signal, which shares no streaming code), for the greedy and the beam decoder.
Sets: kathleen's dev split, strings of five digits joined from fsdd's official test takes, the demo's sentences read
by the voice that was kept out of training; `--validation` scores the tuning sets instead.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from models import bundle
from models.speech import corpora, offline
from models.speech.corpora import Audio, Utterance
from models.speech.decoder import Decoder, S
from models.speech.demo_sentences import DEMO_SENTENCES, DEMO_VOICE
from models.speech.features import trim
from models.speech.load import Kind, load_decoder
from models.speech.model import CtcLstm
from models.speech.synthesis import Reading, available, speak
from models.speech.text import normalise

FLUSH_SAMPLES = 3_200
"""Silence fed behind the last sample: a unidirectional network writes a letter some frames after it was said."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A signal (n,) at 16 kHz and the words in it."""

    samples: Audio
    text: str


@dataclass(slots=True)
class Errors:
    """Edit operations over reference words (or letters)."""

    edits: int = 0
    length: int = 0

    def add(self, reference: Sequence[str], heard: Sequence[str]) -> None:
        """Count one sentence."""
        self.edits += edit_distance(reference, heard)
        self.length += len(reference)

    @property
    def rate(self) -> float:
        return self.edits / max(1, self.length)


def edit_distance(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for number, wanted in enumerate(reference, start=1):
        previous, row[0] = row[0], number
        for column, got in enumerate(heard, start=1):
            cost = previous + (wanted != got)
            previous = row[column]
            row[column] = min(row[column] + 1, row[column - 1] + 1, cost)
    return row[-1]


def sentences(utterances: Iterable[Utterance]) -> list[Spoken]:
    """Recordings with their texts."""
    return [Spoken(corpora.read_audio(u.path), u.text) for u in utterances]


def digit_strings(split: Literal["validation", "test"], length: int = 5, seed: int = 0) -> list[Spoken]:
    """Every take of a split once, joined per speaker to strings with 50 to 300 ms of silence between."""
    draw = random.Random(seed)
    speakers: dict[str, list[Utterance]] = {}
    for utterance in corpora.fsdd(split):
        speakers.setdefault(utterance.speaker, []).append(utterance)
    joined = []
    for said in speakers.values():
        draw.shuffle(said)
        for group in (said[at : at + length] for at in range(0, len(said), length)):
            parts: list[Audio] = []
            for utterance in group:
                parts += [corpora.read_audio(utterance.path), np.zeros(draw.randint(800, 4_800), np.float32)]
            joined.append(Spoken(np.concatenate(parts), " ".join(u.text for u in group)))
    return joined


def demo(voice: str = DEMO_VOICE) -> list[Spoken]:
    """The demo's sentences read by espeak-ng; empty without it."""
    if not available("espeak-ng"):
        return []
    return [Spoken(trim(speak(Reading(s, "espeak-ng", voice))), normalise(s)) for s in DEMO_SENTENCES]


def flushed(samples: Audio) -> Audio:
    """A signal with the silence behind it that lets the network finish."""
    return np.concatenate([samples, np.zeros(FLUSH_SAMPLES, np.float32)])


def streamed_log_probs(model: CtcLstm, samples: Audio, chunk_samples: int = 1_600) -> NDArray[np.float32]:
    """(n,) to (F, V), step by step."""
    state = model.init_state(1)
    parts = []
    for chunk in torch.from_numpy(flushed(samples)).split(chunk_samples):
        outputs, state = model.step(chunk[None, :, None], torch.tensor([len(chunk)]), state)
        parts.append(outputs["log_probs"][0, : int(outputs["lengths"][0])])
    return torch.cat(parts).numpy()


def offline_log_probs(model: CtcLstm, samples: Audio) -> NDArray[np.float32]:
    """(n,) to (F, V), at once."""
    return offline.log_probs(model, torch.from_numpy(flushed(samples))).numpy()


def scores(
    packaged: bundle.Bundle, sets: dict[str, list[Spoken]], kinds: Sequence[Kind]
) -> Iterator[dict[str, object]]:
    """Word and character error rates of each set, path and decoder."""
    model = cast(CtcLstm, packaged.model)
    decoders = {kind: load_decoder(packaged, kind) for kind in kinds}
    for name, spoken in sets.items():
        if not spoken:
            continue
        for way, run in (("streaming", streamed_log_probs), ("offline", offline_log_probs)):
            frames = [run(model, s.samples) for s in spoken]
            for kind, decoder in decoders.items():
                words, letters = Errors(), Errors()
                for s, log_probs in zip(spoken, frames, strict=True):
                    text = transcribed(decoder, log_probs)
                    words.add(s.text.split(), text.split())
                    letters.add(s.text, text)
                score = {"wer": round(words.rate, 4), "cer": round(letters.rate, 4), "words": words.length}
                yield {"set": name, "path": way, "decoder": kind, **score}


def transcribed(decoder: Decoder[S], log_probs: NDArray[np.float32]) -> str:
    """All of a signal as one segment, three frames at a time."""
    state = decoder.initial()
    for start in range(0, len(log_probs), 3):
        state = decoder.advance(state, log_probs[start : start + 3])
    return decoder.final(state).text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speech-en", help="a name in the zoo or a folder")
    parser.add_argument("--validation", action="store_true", help="score the sets for tuning")
    given = parser.parse_args()
    packaged = bundle.load(Path(given.model) if "/" in given.model else given.model)
    if given.validation:
        sets = {"kathleen-validation": sentences(corpora.kathleen("validation")), "digits": digit_strings("validation")}
    else:
        sets = {"kathleen-dev": sentences(corpora.kathleen("dev")), "digits": digit_strings("test"), "demo": demo()}
    for line in scores(packaged, sets, ("greedy", "beam")):
        print(json.dumps({"model": packaged.name, "fingerprint": packaged.fingerprint, **line}), flush=True)


if __name__ == "__main__":
    main()
