"""What every decoder of this family does; the transcript task needs nothing else.

A decoder is pure: `advance` gives a new state and leaves the old one as it is, `advance(F1 + F2)` equals
`advance(F1)` then `advance(F2)` exactly, and a state is plain data (`to_arrays`, `restore`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.speech.beam import BeamDecoder, DecoderState, Search
from models.speech.greedy import GreedyDecoder, GreedyState
from models.speech.hypothesis import Clock, Endpointing, Hypothesis, Word

__all__ = [
    "BeamDecoder",
    "Clock",
    "Decoder",
    "DecoderState",
    "Endpointing",
    "GreedyDecoder",
    "GreedyState",
    "Hypothesis",
    "Plain",
    "Search",
    "SegmentState",
    "Word",
]

Plain = Mapping[str, NDArray[Any] | int]
"""A state as numpy arrays and integers."""


class SegmentState(Protocol):
    """What is known of a state without knowing its decoder."""

    @property
    def clock(self) -> Clock: ...

    def to_arrays(self) -> dict[str, NDArray[Any] | int]: ...


S = TypeVar("S")


class Decoder(Protocol[S]):
    """Turns CTC log-probabilities into words, segment by segment; S is its state."""

    def initial(self) -> S: ...

    def advance(self, state: S, log_probs: NDArray[np.float32]) -> S: ...

    def partial(self, state: S) -> Hypothesis: ...

    def final(self, state: S) -> Hypothesis: ...

    def is_endpoint(self, state: S) -> bool: ...

    def least_frames(self, state: S) -> int: ...

    def next_segment(self, state: S) -> S: ...

    def restore(self, arrays: Plain) -> S: ...
