"""What a beam search knows between two calls, as arrays; what comes back from a log is checked, never trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.speech.beam_work import MOST_NATS
from models.speech.hypothesis import Clock
from models.speech.lexicon import ROOT

_LATEST_FRAME = 2**53
_ROUNDING = 1e-2  # masses and confidences end at 1 but for rounding


@dataclass(frozen=True, slots=True, eq=False)
class DecoderState:
    """Everything a segment's search knows. The arrays are never written to.

    beam_index: (n, 4) int64, a prefix's history, trie node, and the frames of its begun word's first and latest letter;
    beam_mass: (n, 3) float64, its mass ending in blank and in its last label, and the sum of the begun word's letters'
    log probabilities. The best prefix comes first.
    past_index: (m, 5) int64, a history's parent, its last word, the language model's context, and the frames
    [start, end) of that word; past_confidence: (m,) float64. History 0 is the segment's beginning, parent and word -1.
    """

    clock: Clock
    beam_index: NDArray[np.int64]
    beam_mass: NDArray[np.float64]
    past_index: NDArray[np.int64]
    past_confidence: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DecoderState):
            return NotImplemented
        return self.clock == other.clock and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS
        )

    def to_arrays(self) -> dict[str, NDArray[Any] | int]:
        """Plain data that `restored` restores bit for bit."""
        clock = self.clock
        return {
            "frame": clock.frame,
            "onset": clock.onset,
            "silent_frames": clock.silent_frames,
            "beam_index": self.beam_index,
            "beam_mass": self.beam_mass,
            "past_index": self.past_index,
            "past_confidence": self.past_confidence,
        }


_ARRAYS: dict[str, tuple[type[np.generic], int | None]] = {
    "beam_index": (np.int64, 4),
    "beam_mass": (np.float64, 3),
    "past_index": (np.int64, 5),
    "past_confidence": (np.float64, None),
}
"""Name to type and columns."""


def begun(clock: Clock, context: int) -> DecoderState:
    """A segment of which nothing was heard; `context` is the language model's."""
    frame = clock.frame
    return DecoderState(
        clock,
        np.array([[0, ROOT, frame, frame]], dtype=np.int64),
        np.array([[1.0, 0.0, 0.0]]),
        np.array([[-1, -1, context, frame, frame]], dtype=np.int64),
        np.array([1.0]),
    )


def restored(arrays: Mapping[str, NDArray[Any] | int], *, letters: NDArray[np.int32], words: int) -> DecoderState:
    """The state that `to_arrays` wrote, for a lexicon's `letters` (N,) and a language model of so many words.

    Raises ValueError, naming the array, for what compiled code could not run on.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"a {type(arrays).__name__} is no state")
    clock = Clock(*(_count(arrays, name) for name in ("frame", "onset", "silent_frames")))
    state = DecoderState(clock, *(_array(arrays, name) for name in _ARRAYS))
    _check_clock(clock)
    _check_pasts(state, words)
    _check_beam(state, letters)
    return state


def _count(arrays: Mapping[str, NDArray[Any] | int], name: str) -> int:
    value = arrays.get(name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}: {value!r} is no number of frames")
    return int(value)


def _array(arrays: Mapping[str, NDArray[Any] | int], name: str) -> NDArray[Any]:
    kind, columns = _ARRAYS[name]
    value = arrays.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != kind:
        raise ValueError(f"{name}: is no array of {kind.__name__}")
    if value.ndim != (1 if columns is None else 2) or value.shape[1:] != (() if columns is None else (columns,)):
        raise ValueError(f"{name}: has the shape {value.shape}")
    return np.array(value, dtype=kind, order="C")  # its own: whoever gave it may go on writing to it


def _check_clock(clock: Clock) -> None:
    if not 0 <= clock.frame < _LATEST_FRAME:
        raise ValueError(f"frame: {clock.frame} is out of range")
    if not -1 <= clock.onset < clock.frame:
        raise ValueError(f"onset: {clock.onset} is not before frame {clock.frame}")
    if not 0 <= clock.silent_frames <= clock.frame:
        raise ValueError(f"silent_frames: {clock.silent_frames} of {clock.frame}")


def _check_pasts(state: DecoderState, words: int) -> None:
    """Parents lie before their children; each context follows its parent's."""
    count, confidence = len(state.past_index), state.past_confidence
    if count == 0 or len(confidence) != count:
        raise ValueError(f"past_confidence: {len(confidence)} of {count} histories")
    parent, word, context, start, end = state.past_index.T
    if parent[0] != -1 or word[0] != -1 or not 0 <= context[0] < words * words:
        raise ValueError("past_index: history 0 is no beginning")
    if (parent[1:] < 0).any() or (parent[1:] >= np.arange(1, count)).any():
        raise ValueError("past_index: a history does not lie behind its parent")
    if (word[1:] < 0).any() or (word[1:] >= words).any():
        raise ValueError(f"past_index: a word is none of the {words}")
    if (context[1:] != context[parent[1:]] % words * words + word[1:]).any():
        raise ValueError("past_index: a context does not follow from its parent's")
    _check_frames("past_index", start, end, state.clock.frame)
    if not ((confidence >= 0.0) & (confidence <= 1.0 + _ROUNDING)).all():
        raise ValueError("past_confidence: is not from 0 to 1")


def _check_beam(state: DecoderState, letters: NDArray[np.int32]) -> None:
    history, node, start, last = state.beam_index.T
    if len(history) == 0 or len(state.beam_mass) != len(history):
        raise ValueError(f"beam_mass: {len(state.beam_mass)} of {len(history)} prefixes")
    if (history < 0).any() or (history >= len(state.past_index)).any():
        raise ValueError(f"beam_index: a history is none of the {len(state.past_index)}")
    if (node < 0).any() or (node >= len(letters)).any():
        raise ValueError(f"beam_index: a node is none of the lexicon's {len(letters)}")
    _check_frames("beam_index", start, last, state.clock.frame)
    closed, opened, heard = state.beam_mass.T
    mass = closed + opened
    if not ((closed >= 0.0) & (opened >= 0.0) & (mass <= 1.0 + _ROUNDING)).all() or not mass.any():
        raise ValueError("beam_mass: a mass is not from 0 to 1, or none is above 0")
    if not (np.isfinite(heard) & (heard <= MOST_NATS * letters[node] + 1e-9)).all():
        raise ValueError("beam_mass: a word begun has no log probability")


def _check_frames(name: str, start: NDArray[np.int64], end: NDArray[np.int64], frame: int) -> None:
    if (start < 0).any() or (end < start).any() or (end > frame).any():
        raise ValueError(f"{name}: frames do not lie in order before {frame}")
