"""A record on its way through the worker: what waits in the batcher, is stepped, and is finished."""

from __future__ import annotations

from collections import Counter
from typing import cast

import msgspec

from streamer.codecs.base import Decoded, Samples
from streamer.records import Record
from streamer.worker.results import StreamKey
from streamer.worker.stream import Place, Stream


class Item(msgspec.Struct, gc=False, eq=False):
    """A decoded record of the stream `key`, or a run of them. One object from intake to its end.

    skip: why it is passed over on purpose (skip to live), or empty. later: the rest of a run, each plainly the next of
    the one before, to be stepped as one row of many samples; an ordinary record has none.
    The other fields are the stepper's: the stream it steps, where that stood before a run, the pieces that the samples
    were cut into, how many messages of each kind were said (where there are several pieces), and whether a decision
    was published, so that the stream is saved in the same commit.
    """

    key: StreamKey
    record: Record
    decoded: Decoded
    skip: str = ""
    later: list[tuple[Record, Decoded]] = []
    stream: Stream = cast(Stream, None)  # set before anybody looks: what is ready to be stepped has a stream
    before: Place | None = None
    pieces: list[Samples] = []
    count: Counter[str] | None = None
    decided: bool = False

    def singles(self) -> list[Item]:
        """A run's records one by one, as they were before they were put together."""
        return [Item(self.key, record, decoded) for record, decoded in ((self.record, self.decoded), *self.later)]
