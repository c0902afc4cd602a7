"""What a decoder gives: the stateless half of intake. One batch of records in, one result a record out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.errors import Malformed
from streamer.records import Record

Samples = NDArray[np.float32]
"""(n, C) float32: n samples of C channels or columns. NaN is a missing sensor value; audio has none."""


class Decoded(msgspec.Struct, gc=False, eq=False):
    """One record's content, true of that record alone (no stream state is used or kept).

    stream: the stream's id. time_ms: event time of the first sample. samples: (n, C). rate_hz: samples a second, 0 for
    events. session: one run of the source, or None. seq: rises by one a record in a session, or None.
    sample_index: index in its session of the first sample, or None. eos: the stream ends with this record.
    lacking: some of its values are missing (NaN).
    """

    stream: str
    time_ms: int
    samples: Samples
    rate_hz: int = 0
    session: str | None = None
    seq: int | None = None
    sample_index: int | None = None
    eos: bool = False
    lacking: bool = False


class Decoder(Protocol):
    """Turns payloads into samples."""

    def decode(self, records: Sequence[Record]) -> list[Decoded | Malformed]:
        """One result for each record, in order; a Malformed carries the reason and harms no other record."""
        ...
