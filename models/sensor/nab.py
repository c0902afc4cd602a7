"""The score of the Numenta Anomaly Benchmark, written from its paper.

Lavin & Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark", ICMLA 2015,
section II-C. The first detection in a labelled window earns a sigmoid of how early it is, a missed window costs one
miss, every detection outside costs a false alarm that is small just behind a window. The first 15 % of a file (at
most 750 events) are probation. 0 is a detector that says nothing, 100 the earliest possible in every window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.sensor.corpus import Recording

PROBATION_SHARE = 0.15
PROBATION_BASE_EVENTS = 5000


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of the cost matrix, of `config/profiles.json` of NAB."""

    hit: float = 1.0
    miss: float = 1.0
    false_alarm: float = 0.11


STANDARD = Profile()
REWARD_LOW_FALSE_ALARMS = Profile(false_alarm=0.22)
REWARD_LOW_MISSES = Profile(miss=2.0)


def probation_events(events: int) -> int:
    """Events at the start of a file that are not scored."""
    return int(PROBATION_SHARE * min(events, PROBATION_BASE_EVENTS))


def windows_of(recording: Recording) -> list[tuple[int, int]]:
    """First and last event of every labelled window."""
    return [
        (int(np.searchsorted(recording.time_ms, first)), int(np.searchsorted(recording.time_ms, last, "right")) - 1)
        for first, last in recording.windows_ms
    ]


def raw_score(windows: Sequence[tuple[int, int]], detected: NDArray[np.bool_], profile: Profile) -> float:
    """Score of one file: hits minus false alarms minus misses, before it is put on the 0 to 100 scale.

    windows: first and last event of each, rising. detected: (T,) bool.
    """
    events = np.flatnonzero(detected)
    events = events[events >= probation_events(len(detected))]
    inside = np.zeros(len(events), dtype=np.bool_)
    score = 0.0
    for first, last in windows:
        hits = (events >= first) & (events <= last)
        inside |= hits
        if not hits.any():
            score -= profile.miss
            continue
        early = -(last - int(events[hits][0]) + 1) / (last - first + 1)
        score += profile.hit * _sigmoid(early) / _sigmoid(-1.0)
    return score + profile.false_alarm * sum(_behind(int(event), windows) for event in events[~inside])


def normalised(raw: float, windows: int, profile: Profile) -> float:
    """0 for the detector that never detects, 100 for the one that is always first."""
    return 100.0 * (raw + profile.miss * windows) / ((profile.hit + profile.miss) * windows)


def score(recordings: Sequence[Recording], detected: Sequence[NDArray[np.bool_]], profile: Profile = STANDARD) -> float:
    """The benchmark's score of a detector on several files; both sequences are in the same order."""
    windows = [windows_of(recording) for recording in recordings]
    raw = sum(raw_score(w, d, profile) for w, d in zip(windows, detected, strict=True))
    return normalised(raw, sum(len(w) for w in windows), profile)


def _sigmoid(position: float) -> float:
    """(-1, 1): 0.98 at a window's start, 0 at its end, -1 far behind it."""
    return -1.0 if position > 3.0 else float(2.0 / (1.0 + np.exp(5.0 * position)) - 1.0)


def _behind(event: int, windows: Sequence[tuple[int, int]]) -> float:
    """Cost in (-1, 0) of a false alarm: small just behind a window, full with no window before it."""
    before = [(first, last) for first, last in windows if last < event]
    if not before:
        return -1.0
    first, last = before[-1]
    return _sigmoid((event - last) / max(last - first, 1))
