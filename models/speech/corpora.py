"""Recordings with text, and texts alone, as the recipe uses them; what may be trained on is decided here.

The data folder is `$STREAMER_DATA`, else `../shared/data` beside the repository. Held out for measuring: kathleen's
dev split, fsdd's takes 0-4, the demo's sentences and voice. `VALIDATION_PROMPTS` of kathleen's train prompts, with
all their takes, are cut out for tuning. No sentence of kathleen's dev split is given to any language model.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.speech.demo_sentences import DEMO_SENTENCES
from models.speech.text import DIGITS, normalise

RATE_HZ = 16_000
VALIDATION_PROMPTS = 40

Split = Literal["train", "validation", "dev"]
Audio = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording with what is said in it (normalised) and who says it."""

    path: Path
    text: str
    speaker: str


def data_folder() -> Path:
    """Where the recordings lie. Raises FileNotFoundError with how to mend it."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("STREAMER_DATA", default))
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {folder}: set STREAMER_DATA")
    return folder


def read_audio(path: Path, speed: float = 1.0) -> Audio:
    """A recording as 16 kHz mono float32 (n,), played `speed` times faster (pitch moves with it)."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(samples.mean(axis=1), rate_hz * speed)


def resample(samples: NDArray[np.float32], rate_hz: float) -> Audio:
    """(n,) at `rate_hz` to 16 kHz."""
    if rate_hz == RATE_HZ:
        return np.ascontiguousarray(samples, dtype=np.float32)
    return np.asarray(soxr.resample(samples, rate_hz, RATE_HZ), dtype=np.float32)


@cache
def _manifest() -> tuple[dict[str, str], ...]:
    path = data_folder() / "kathleen" / "manifest.tsv"
    with path.open(encoding="utf-8", newline="") as lines:
        return tuple(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def kathleen(split: Split) -> list[Utterance]:
    """Read sentences of one speaker; `validation` is a part of the published train split."""
    published = "dev" if split == "dev" else "train"
    rows = [row for row in _manifest() if row["split"] == published]
    if split != "dev":
        prompts = sorted({row["prompt"] for row in rows})
        chosen = set(random.Random(0).sample(prompts, VALIDATION_PROMPTS))
        rows = [row for row in rows if (row["prompt"] in chosen) == (split == "validation")]
        if split == "validation":
            rows = [row for row in rows if row["take"] == "latest"]
    folder = data_folder() / "kathleen" / "flac"
    return [Utterance(folder / row["file"], normalise(row["transcript"]), "kathleen") for row in rows]


def fsdd(split: Literal["train", "validation", "test"]) -> list[Utterance]:
    """Single spoken digits of six speakers; takes 0-4 are the official test, 5-7 tune, the rest train."""
    takes = {"test": range(0, 5), "validation": range(5, 8), "train": range(8, 50)}[split]
    found = []
    for path in sorted((data_folder() / "fsdd" / "recordings").glob("*.wav")):
        digit, speaker, take = path.stem.split("_")
        if int(take) in takes:
            found.append(Utterance(path, DIGITS[int(digit)], f"fsdd-{speaker}"))
    return found


def tatoeba() -> Iterator[str]:
    """English sentences as written."""
    with gzip.open(data_folder() / "tatoeba_en_zh" / "cmn.txt.gz", "rt", encoding="utf-8") as lines:
        seen = set()
        for line in lines:
            sentence = line.split("\t", 1)[0]
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def war_and_peace() -> Iterator[str]:
    """Sentences of the novel as written, without Project Gutenberg's header and licence."""
    with gzip.open(data_folder() / "text_pd" / "warandpeace.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    body = re.split(r"\*\*\* ?START OF[^\n]*\n", text)[-1]
    body = re.split(r"\*\*\* ?END OF|End of (?:the )?Project Gutenberg", body)[0]
    for paragraph in re.split(r"\n\s*\n", body.replace("\r", "")):
        flat = " ".join(paragraph.split())
        yield from (sentence for sentence in re.split(r"(?<=[.!?;:])[\"')]*\s+", flat) if sentence)


@cache
def held_out_texts() -> frozenset[str]:
    """Normalised sentences that no text used for training may contain."""
    return frozenset(u.text for u in kathleen("dev")) | {normalise(s) for s in DEMO_SENTENCES}


def readable_sentences(shortest: int, longest: int) -> list[str]:
    """Normalised tatoeba and War and Peace sentences of so many words, without figures or held-out text."""
    found: dict[str, None] = {}
    for written in (*tatoeba(), *war_and_peace()):
        if written.isascii() and not re.search(r"\d", written):
            text = normalise(written)
            if shortest <= len(text.split()) <= longest and text not in held_out_texts():
                found[text] = None
    return list(found)
