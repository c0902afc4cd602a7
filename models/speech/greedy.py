"""The simplest decoder: the most probable label of each frame, repeats and blanks dropped. No lexicon, no search.

It has the same shape as the beam decoder: pure steps over an explicit state of plain data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.speech.hypothesis import Clock, Endpointing, Hypothesis, Word
from models.speech.text import ALPHABET, BLANK, SPACE


@dataclass(frozen=True, slots=True)
class GreedyState:
    """clock; last: the label of the last frame; letters: (label, frame, log probability) of each written label."""

    clock: Clock = field(default_factory=Clock)
    last: int = BLANK
    letters: tuple[tuple[int, int, float], ...] = ()

    def to_arrays(self) -> dict[str, NDArray[np.float64] | int]:
        """Plain data that `from_arrays` restores bit for bit."""
        return {
            "frame": self.clock.frame,
            "onset": self.clock.onset,
            "silent_frames": self.clock.silent_frames,
            "last": self.last,
            "letters": np.array(self.letters, dtype=np.float64).reshape(-1, 3),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64] | int]) -> GreedyState:
        """The state that `to_arrays` wrote."""
        clock = Clock(int(arrays["frame"]), int(arrays["onset"]), int(arrays["silent_frames"]))
        rows = np.asarray(arrays["letters"]).tolist()
        return cls(clock, int(arrays["last"]), tuple((int(a), int(b), float(c)) for a, b, c in rows))


class GreedyDecoder:
    """Best path decoding (Graves 2006, section 3.2), frame by frame."""

    def __init__(self, endpointing: Endpointing | None = None) -> None:
        self.endpointing = endpointing or Endpointing()

    def initial(self) -> GreedyState:
        """A stream that has heard nothing."""
        return GreedyState()

    def advance(self, state: GreedyState, log_probs: NDArray[np.float32]) -> GreedyState:
        """The state after (F, V) more frames; `state` is left as it is."""
        clock, last, letters = state.clock, state.last, list(state.letters)
        for label, row in zip(log_probs.argmax(axis=1).tolist(), log_probs, strict=True):
            if label != last and label != BLANK:
                letters.append((label, clock.frame, float(row[label])))
            last = label
            clock = clock.heard(label)
        return GreedyState(clock, last, tuple(letters))

    def partial(self, state: GreedyState) -> Hypothesis:
        """What is written so far."""
        words: list[Word] = []
        group: list[tuple[int, int, float]] = []
        for letter in (*state.letters, (SPACE, 0, 0.0)):
            if letter[0] != SPACE:
                group.append(letter)
            elif group:
                words.append(_word(group))
                group = []
        return Hypothesis(tuple(words))

    def final(self, state: GreedyState) -> Hypothesis:
        """The same as `partial`: nothing is left open."""
        return self.partial(state)

    def next_segment(self, state: GreedyState) -> GreedyState:
        """Begin a new segment at the frame where the last one ended."""
        return replace(state, clock=state.clock.restarted(), letters=())

    def is_endpoint(self, state: GreedyState) -> bool:
        """Whether the segment is over here."""
        return self.endpointing(state.clock)

    def least_frames(self, state: GreedyState) -> int:
        """How many frames the segment goes on at least."""
        return self.endpointing.least_frames(state.clock)

    def restore(self, arrays: Mapping[str, NDArray[np.float64] | int]) -> GreedyState:
        """The state that `GreedyState.to_arrays` wrote."""
        return GreedyState.from_arrays(arrays)


def _word(group: list[tuple[int, int, float]]) -> Word:
    text = "".join(ALPHABET[label - 1] for label, _, _ in group)
    confidence = math.exp(sum(score for _, _, score in group) / len(group))
    return Word(text, group[0][1], group[-1][1] + 1, confidence)
