"""The streams that come with the project: recorded people and machines where STREAMER_DATA has them, else made here.

Synthesised speech is espeak-ng reading `models.speech.demo_sentences` in several voices; the machine is a generated
signal with known faults. What is written to disk lies in a temporary folder.
"""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from streamer.errors import InputError

MACHINES = (
    "realKnownCause/machine_temperature_system_failure.csv",
    "realKnownCause/ambient_temperature_system_failure.csv",
    "realKnownCause/ec2_request_latency_system_failure.csv",
)
"""Of the Numenta Anomaly Benchmark: none of this category is trained on."""

MACHINE_READINGS = 4_400
"""The first readings of each machine are played: its first labelled failure lies within."""

SPEAKERS = ("jackson", "lucas", "theo")
_PAUSE_S = 1.2
_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Talk:
    """A file in which somebody speaks, and what was said."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class _Clip:
    """Part of a talk: a recording at `path`, or with `voice` a text that is synthesised."""

    text: str
    path: Path | None = None
    voice: str = ""
    speed: float = 1.0


def data_folder() -> Path | None:
    """`$STREAMER_DATA`, else `../shared/data` beside the repository, where there is one."""
    named = os.environ.get("STREAMER_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return folder if folder.is_dir() else None


def talks(folder: Path, seconds: float, seed: int = 1) -> list[Talk]:
    """Write talks of about `seconds` each into `folder`. Raises InputError where there is neither data nor a voice."""
    data = data_folder()
    plans = dict(_recorded(data, random.Random(seed))) if data else {}
    plans = plans or dict(_synthesised(random.Random(seed)))
    return [_write(folder / f"{name}.wav", clips, seconds) for name, clips in plans.items()]


def machines(folder: Path) -> list[Path]:
    """Tables of machines that misbehave: recorded ones, else one that is generated into `folder`."""
    data = data_folder()
    there = [path for name in MACHINES if data and (path := data / "nab" / "data" / name).is_file()]
    return [_excerpt(path, folder / path.name) for path in there] or [_generated(folder / "pump.csv")]


def span_s(path: Path) -> float:
    """Seconds from a machine's first reading to its last."""
    with path.open(encoding="utf-8", newline="") as file:
        times = [row["timestamp"] for row in csv.DictReader(file)]
    return (datetime.fromisoformat(times[-1]) - datetime.fromisoformat(times[0])).total_seconds()


def _recorded(data: Path, draw: random.Random) -> Iterator[tuple[str, Sequence[_Clip]]]:
    """Recorded people: read sentences of `kathleen`'s dev split, spoken digits of `fsdd`'s test split."""
    manifest = data / "kathleen" / "manifest.tsv"
    if manifest.is_file():
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "dev"]
        draw.shuffle(rows)
        clips = [_Clip(row["transcript"], data / "kathleen" / "flac" / row["file"]) for row in rows]
        yield "kathleen-1", clips[::2]
        yield "kathleen-2", clips[1::2]
    digits = data / "fsdd" / "recordings"
    if digits.is_dir():
        names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        for speaker in SPEAKERS:
            # Takes 0 to 4 are the data set's official test split.
            spoken = [
                _Clip(word, digits / f"{digit}_{speaker}_{take}.wav")
                for take in range(5)
                for digit, word in enumerate(names)
            ]
            draw.shuffle(spoken)
            yield f"digits-{speaker}", [clip for clip in spoken if clip.path and clip.path.is_file()]


def _synthesised(draw: random.Random) -> Iterator[tuple[str, Sequence[_Clip]]]:
    """espeak-ng in the voice that is kept out of training, and in two that are not."""
    from models.speech.demo_sentences import DEMO_SENTENCES, DEMO_VOICE
    from models.speech.synthesis import available

    if not available("espeak-ng"):
        raise InputError("no recordings (STREAMER_DATA) and no voice to synthesise some: apt-get install espeak-ng")
    for name, voice, speed in (("unheard-voice", DEMO_VOICE, 1.0), ("anna", "en-us+f2", 0.9), ("ben", "en-gb+m3", 1.1)):
        sentences = list(DEMO_SENTENCES)
        draw.shuffle(sentences)
        yield name, [_Clip(sentence, voice=voice, speed=speed) for sentence in sentences]


def _write(path: Path, clips: Sequence[_Clip], seconds: float) -> Talk:
    """Join clips, with pauses, to a wav of at most `seconds` (but at least one clip)."""
    import numpy as np
    import soundfile
    from numpy.typing import NDArray

    from models.speech.corpora import read_audio
    from models.speech.synthesis import Reading, speak

    parts: list[NDArray[np.float32]] = []
    texts: list[str] = []
    total_s = 0.0
    for clip in clips:
        sound = read_audio(clip.path) if clip.path else speak(Reading(clip.text, "espeak-ng", clip.voice, clip.speed))
        # Digits follow one another quickly, sentences after a breath.
        pause_s = 0.15 if " " not in clip.text else _PAUSE_S
        length_s = len(sound) / _RATE_HZ + pause_s
        if texts and total_s + length_s > seconds:
            break
        parts += [sound, np.zeros(round(pause_s * _RATE_HZ), np.float32)]
        texts.append(clip.text)
        total_s += length_s
    soundfile.write(path, np.concatenate(parts), _RATE_HZ, subtype="PCM_16")
    return Talk(path, " ".join(texts))


def _excerpt(recording: Path, path: Path) -> Path:
    with recording.open(encoding="utf-8") as whole, path.open("w", encoding="utf-8") as part:
        part.writelines(islice(whole, 1 + MACHINE_READINGS))
    return path


def _generated(path: Path, events: int = MACHINE_READINGS, seed: int = 7) -> Path:
    """A pump's temperature every five minutes, with a daily rhythm and three faults: a jump, a stuck value, a climb."""
    draw = random.Random(seed)
    clock = datetime(2024, 1, 1, tzinfo=UTC)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("timestamp", "value"))
        for i in range(events):
            value = 60 + 6 * math.sin(2 * math.pi * i / 288) + draw.gauss(0, 0.6)
            if 2_600 <= i < 2_630:
                value += 25
            elif 3_200 <= i < 3_260:
                value = 42.0
            elif 3_900 <= i < 4_020:
                value += (i - 3_900) * 0.4
            table.writerow(((clock + timedelta(minutes=5 * i)).isoformat(), f"{value:.3f}"))
    return path
