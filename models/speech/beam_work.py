"""The room in which a compiled search works: arrays that are written to, one set for each call under way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.speech.text import VOCABULARY

KEPT_HISTORIES = 192
"""With more than this the histories that no prefix stands on are dropped."""

MOST_NATS = 1e-3
"""A log probability lies above 0 by rounding only."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Beam(NamedTuple):
    """Prefixes, best first. ints: (rows, 4) int64; mass: (rows, 3) float64; columns as in `DecoderState`."""

    ints: Ints
    mass: Floats


class Pasts(NamedTuple):
    """Finished words behind histories. ints: (room, 5) int64; confidence: (room,) float64, as in `DecoderState`.

    first, sibling: (room,) int64, the histories grown from one, as linked lists that end in -1; moved: (room,) int64.
    """

    ints: Ints
    confidence: Floats
    first: Ints
    sibling: Ints
    moved: Ints


class Drafts(NamedTuple):
    """Prefixes while a frame is worked on.

    ints: (rows, 4) int64; mass: (rows, 4) float64, as a beam's, and the largest mass that came in at once;
    slots: int64 hash table of row numbers, -1 where free, its length a power of two; order: (2, rows) int64 row
    numbers being sorted, total: (2, rows) float64, their mass of both endings.
    """

    ints: Ints
    mass: Floats
    total: Floats
    slots: Ints
    order: Ints


class Heard(NamedTuple):
    """A frame of V labels. label: (V,) int64, the probable ones, blank left out; nats, prob: (V,) float64, per label,
    prob 0 where it is improbable; blank's is discounted."""

    label: Ints
    nats: Floats
    prob: Floats


class Room(NamedTuple):
    """All that a compiled search writes to."""

    beam: Beam
    pasts: Pasts
    drafts: Drafts
    heard: Heard

    def holds(self, prefixes: int, histories: int) -> bool:
        """Whether a search can go on in it from so many prefixes and histories."""
        return prefixes <= len(self.beam.ints) and prefixes + histories <= len(self.pasts.confidence)


def room_for(prefixes: int, histories: int) -> Room:
    """Room for beams of so many prefixes, on so many histories and what grows from them."""
    drafts = prefixes * (VOCABULARY + 1)  # each stays, is finished, or grows by a label
    slots = 1 << max(2 * drafts - 1, 63).bit_length()
    pasts = 2 * (max(histories, KEPT_HISTORIES) + prefixes)
    return Room(
        Beam(_ints(prefixes, 4), np.empty((prefixes, 3))),
        Pasts(_ints(pasts, 5), np.empty(pasts), _ints(pasts), _ints(pasts), _ints(pasts)),
        Drafts(_ints(drafts, 4), np.empty((drafts, 4)), np.empty((2, drafts)), _ints(slots), _ints(2, drafts)),
        Heard(_ints(VOCABULARY), np.empty(VOCABULARY), np.empty(VOCABULARY)),
    )


def _ints(*shape: int) -> Ints:
    return np.empty(shape, np.int64)
