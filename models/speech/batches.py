"""Training batches: utterances joined to streams, disturbed in the mel domain.

A row is what a live stream sounds like: noise, a few utterances with pauses, or digit strings of one speaker, or
nothing but noise. All rows of a batch have the same length; what follows the last utterance is the row's own noise,
so that no row is padded and the network learns silence too.

Shape legend: T 10 ms frames, M mel bands, S stacked frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from models.speech.features import BANDS, Clip, FeatureStore
from models.speech.text import encode

Frames = NDArray[np.float32]
_FLOOR_LOG = -13.8155  # log(1e-6), what the front end gives for digital silence


@dataclass(frozen=True, slots=True)
class Batch:
    """features (B, F, S * M) normalised; targets (sum of lengths,) and their lengths (B,) for CTC."""

    features: Tensor
    targets: Tensor
    target_lengths: Tensor


@dataclass(frozen=True, slots=True)
class Mix:
    """How often a row is of which kind; the rest is noise alone."""

    kathleen: float = 0.57
    digits: float = 0.12
    synthetic: float = 0.29


class Batches:
    """An endless source of batches; all its chance comes from the generator it is given.

    mean, std: (M,) of the front end's normalisation, applied after the disturbances as in a live stream.
    """

    def __init__(self, store: FeatureStore, mean: Frames, std: Frames, stack: int = 3, mix: Mix | None = None) -> None:
        self.store, self.mean, self.std, self.stack = store, mean, std, stack
        self.mix = mix or Mix()
        self.clips = {c: [k for k in store.clips if k.corpus == c] for c in ("kathleen", "synthetic")}
        self.digits: dict[str, list[Clip]] = {}
        for clip in store.clips:
            if clip.corpus == "fsdd":
                self.digits.setdefault(clip.speaker, []).append(clip)

    def draw(self, rows: int, frames: int, rng: Generator) -> Batch:
        """One batch of `rows` streams of `frames` 10 ms frames (a multiple of the stack)."""
        features = np.empty((rows, frames, BANDS), np.float32)
        labels = []
        for row in range(rows):
            features[row], text = self._row(frames, rng)
            labels.append(encode(text))
        stacked = torch.from_numpy(features).reshape(rows, frames // self.stack, self.stack * BANDS)
        targets = torch.tensor([label for line in labels for label in line], dtype=torch.int64)
        return Batch(stacked, targets, torch.tensor([len(line) for line in labels]))

    def _row(self, frames: int, rng: Generator) -> tuple[Frames, str]:
        row = np.full((frames, BANDS), _FLOOR_LOG, np.float32)
        words: list[str] = []
        kind = rng.random()
        position = int(rng.integers(0, 40))
        for clip, pause in self._programme(kind, frames, rng):
            if position + clip.frames > frames:
                break
            sound = self.store.of(clip)
            row[position : position + clip.frames] = np.logaddexp(row[position : position + clip.frames], sound)
            words.append(clip.text)
            position += clip.frames + pause
        text = " ".join(words)
        while len(text) + sum(a == b for a, b in pairwise(text)) > frames // self.stack - 2:
            text = text.rpartition(" ")[0]  # never more labels than CTC has frames for
        disturbed = disturb(row, rng)
        return mask((disturbed - self.mean) / self.std, rng), text

    def _programme(self, kind: float, frames: int, rng: Generator) -> list[tuple[Clip, int]]:
        """Which clips follow each other in a row, each with the pause after it in frames."""
        if kind < self.mix.digits:
            speaker = list(self.digits)[int(rng.integers(len(self.digits)))]
            clips = self.digits[speaker]
            longest_pause = int(rng.choice([1, 12, 45]))
            count = int(rng.integers(1, 14))
            return [(clips[int(rng.integers(len(clips)))], int(rng.integers(0, longest_pause))) for _ in range(count)]
        if kind < self.mix.digits + self.mix.kathleen:
            clips = self.clips["kathleen"]
        elif kind < self.mix.digits + self.mix.kathleen + self.mix.synthetic:
            clips = self.clips["synthetic"]
        else:
            return []
        fitting = (clips[int(rng.integers(len(clips)))] for _ in range(8))
        chosen = [clip for clip in fitting if clip.frames + 40 <= frames]
        return [(clip, int(rng.integers(10, 120))) for clip in chosen]


def disturb(row: Frames, rng: Generator) -> Frames:
    """Gain, microphone colour, a telephone's band and background noise, on log-mel frames (T, M).

    Noise adds to speech in power; that the cross terms are left out matters little at 25 ms windows.
    """
    row = row + np.float32(rng.uniform(-3.5, 1.0))  # nepers of power: -15 to +4 dB
    if rng.random() < 0.5:
        knots = rng.normal(0.0, 0.5, 5)
        row = row + np.interp(np.arange(BANDS), np.linspace(0, BANDS - 1, 5), knots).astype(np.float32)
    if rng.random() < 0.15:
        row[:, int(rng.integers(58, 66)) :] = _FLOOR_LOG  # about 4 kHz and above: speech of 8 kHz recordings
    if rng.random() < 0.6:
        level = rng.uniform(-13.0, -6.5)
        slope = np.linspace(0.0, rng.uniform(-3.0, 1.5), BANDS) + rng.normal(0.0, 0.3, BANDS)
        ripple = np.log(rng.chisquare(12, row.shape) / 12 + 1e-3)
        row = np.logaddexp(row, (level + slope + ripple).astype(np.float32))
    return np.logaddexp(row, np.float32(_FLOOR_LOG)).astype(np.float32)


def mask(features: Frames, rng: Generator) -> Frames:
    """SpecAugment (Park et al. 2019) on normalised frames (T, M): two bands and a few moments are blanked."""
    for _ in range(2):
        width = int(rng.integers(0, 11))
        start = int(rng.integers(0, BANDS - width))
        features[:, start : start + width] = 0.0
    for _ in range(len(features) // 200 + 1):
        width = int(rng.integers(0, 11))
        start = int(rng.integers(0, max(1, len(features) - width)))
        features[start : start + width] = 0.0
    return features


def statistics(store: FeatureStore) -> tuple[Frames, Frames]:
    """Mean and standard deviation per band (M,) over all recorded speech in the store."""
    sample = store.frames[:: max(1, len(store.frames) // 200_000)].astype(np.float32)
    return sample.mean(axis=0), sample.std(axis=0) + np.float32(1e-3)
