"""The training set as log-mel frames on disk: made once, then only read.

One flat float16 file of 10 ms frames and one index. A recording is stored at several speeds, since warping the
waveform is the one augmentation that cannot be done on log-mel frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.frontend import LogMel
from models.speech.corpora import Audio, fsdd, kathleen, read_audio
from models.speech.synthesis import Reading, available, speak, training_readings

BANDS = 80
_SPEEDS = {"kathleen": (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.18), "fsdd": (0.88, 1.0, 1.12)}


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance in the store: its frames are [start, start + frames)."""

    corpus: str
    speaker: str
    text: str
    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """All clips and their log-mel frames (total, BANDS) float16, memory-mapped."""

    clips: tuple[Clip, ...]
    frames: NDArray[np.float16]

    def of(self, clip: Clip) -> NDArray[np.float32]:
        """The frames of a clip, (frames, BANDS)."""
        return self.frames[clip.start : clip.start + clip.frames].astype(np.float32)


def open_store(folder: Path) -> FeatureStore:
    """The store that `make_store` left in `folder`."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    frames = np.memmap(folder / "frames.f16", dtype=np.float16, mode="r").reshape(-1, BANDS)
    return FeatureStore(tuple(Clip(**clip) for clip in index), frames)


def make_store(folder: Path, readings: int, seed: int) -> None:
    """Write the training features; a store that is complete is left as it is (the index is written last)."""
    if (folder / "index.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    front_end = LogMel(bands=BANDS)
    clips: list[Clip] = []
    position = 0
    with (folder / "frames.f16").open("wb") as file, torch.inference_mode():
        for corpus, speaker, text, samples in _sounds(readings, seed):
            if len(samples) < front_end.window_samples:
                continue
            mel = front_end.log_mel(torch.from_numpy(samples)[None])[0].numpy().astype(np.float16)
            file.write(mel.tobytes())
            clips.append(Clip(corpus, speaker, text, position, len(mel)))
            position += len(mel)
    (folder / "index.json").write_text(json.dumps([asdict(clip) for clip in clips]), encoding="utf-8")


def _sounds(readings: int, seed: int) -> Iterator[tuple[str, str, str, Audio]]:
    for corpus, utterances in (("kathleen", kathleen("train")), ("fsdd", fsdd("train"))):
        for utterance in utterances:
            for speed in _SPEEDS[corpus]:
                yield corpus, utterance.speaker, utterance.text, read_audio(utterance.path, speed)
    wanted = [reading for reading in training_readings(readings, seed) if available(reading.engine)]
    with ThreadPoolExecutor(2) as pool:
        for reading, samples in zip(wanted, pool.map(_spoken, wanted), strict=True):
            yield "synthetic", f"{reading.engine}/{reading.voice}", reading.text, samples


def _spoken(reading: Reading) -> Audio:
    return trim(speak(reading))


def trim(samples: Audio, margin_samples: int = 800, floor: float = 0.003) -> Audio:
    """Without the silence that synthesizers put around a sentence, a small margin kept."""
    loud = np.flatnonzero(np.abs(samples) > floor)
    if len(loud) == 0:
        return samples
    return samples[max(0, loud[0] - margin_samples) : loud[-1] + margin_samples]
