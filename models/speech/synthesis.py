"""Speech made by free synthesizers (espeak-ng, flite, festival): many voices for training, fixtures and the demo.

The demo's voice is refused unless asked for by name. Nothing is written to disk.
"""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from models.speech.corpora import Audio, readable_sentences, resample
from models.speech.demo_sentences import DEMO_VOICE
from models.speech.text import DIGITS

Engine = Literal["espeak-ng", "flite", "festival"]

_ACCENTS = ("en-us",) * 4 + ("en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd")
_VARIANTS = (
    *("", "+f1", "+f2", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8"),
    *("+Annie", "+Andrea", "+linda", "+steph", "+belinda", "+Alicia", "+anika", "+Michael", "+paul", "+robert"),
)
_FLITE_VOICES = ("slt", "slt", "rms", "awb", "kal16")


@dataclass(frozen=True, slots=True)
class Reading:
    """One sentence and how it is to be read.

    speed: 1.0 is the voice's own; pitch: 1.0 is the voice's own (festival ignores it).
    """

    text: str
    engine: Engine
    voice: str
    speed: float = 1.0
    pitch: float = 1.0


def available(engine: Engine) -> bool:
    """Whether this machine has the synthesizer."""
    return shutil.which("text2wave" if engine == "festival" else engine) is not None


def speak(reading: Reading) -> Audio:
    """The sound of a reading, 16 kHz mono float32 (n,).

    Raises FileNotFoundError without the synthesizer and CalledProcessError when it fails.
    """
    if reading.engine == "espeak-ng":
        return _espeak(reading)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = _flite(reading, path) if reading.engine == "flite" else _festival(reading, path)
        subprocess.run(command, input=reading.text.encode(), check=True, capture_output=True)
        samples, rate_hz = soundfile.read(path, dtype="float32")
    return resample(samples, rate_hz)


def _espeak(reading: Reading) -> Audio:
    words_per_minute = str(round(160 * reading.speed))
    command = ["espeak-ng", "-v", reading.voice, "-s", words_per_minute, "-p", str(round(50 * reading.pitch))]
    made = subprocess.run([*command, "--stdout", reading.text], check=True, capture_output=True).stdout
    # espeak-ng writes a header of unknown length to a pipe; the bytes after it are 16-bit samples.
    rate_hz = int.from_bytes(made[24:28], "little")
    samples = np.frombuffer(made[44 : len(made) - len(made) % 2], dtype="<i2").astype(np.float32) / 32_768.0
    return resample(samples, rate_hz)


def _flite(reading: Reading, path: Path) -> list[str]:
    base_hz = {"slt": 170.0, "rms": 100.0, "awb": 130.0}.get(reading.voice, 105.0)
    settings = ["--setf", f"duration_stretch={1 / reading.speed:.3f}"]
    settings += ["--setf", f"int_f0_target_mean={base_hz * reading.pitch:.1f}"]
    return ["flite", "-voice", reading.voice, *settings, "-t", reading.text, "-o", str(path)]


def _festival(reading: Reading, path: Path) -> list[str]:
    stretch = f"(Parameter.set 'Duration_Stretch {1 / reading.speed:.3f})"
    return ["text2wave", "-eval", f"(voice_{reading.voice})", "-eval", stretch, "-o", str(path)]


def to_wav_bytes(samples: Audio) -> bytes:
    """A 16-bit wav file in memory."""
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def training_readings(count: int, seed: int) -> list[Reading]:
    """`count` different readings for training, reproducible: a fifth digit strings, the rest sentences."""
    draw = random.Random(seed)
    sentences = readable_sentences(2, 13)
    draw.shuffle(sentences)
    readings = []
    for number in range(count):
        digits = " ".join(draw.choices(DIGITS, k=draw.randint(1, 7)))
        text = digits if number % 6 == 0 else sentences[number % len(sentences)]
        readings.append(_random_reading(text, draw))
    return readings


def _random_reading(text: str, draw: random.Random) -> Reading:
    engines: Sequence[Engine] = ("espeak-ng",) * 30 + ("flite",) * 19 + ("festival",)
    engine = draw.choice(engines)
    speed, pitch = draw.uniform(0.72, 1.2), draw.uniform(0.7, 1.4)
    if engine == "flite":
        return Reading(text, engine, draw.choice(_FLITE_VOICES), speed, pitch)
    if engine == "festival":
        return Reading(text, engine, "kal_diphone", speed)
    voice = draw.choice(_ACCENTS) + draw.choice(_VARIANTS)
    assert voice != DEMO_VOICE, "the demo's voice stays out of training"
    return Reading(text, engine, voice, speed, pitch)
