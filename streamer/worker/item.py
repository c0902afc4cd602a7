"""A record on its way through the worker: what waits in the batcher, is stepped, and is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np

from streamer.codecs.base import Decoded, Samples
from streamer.records import Record
from streamer.worker.results import StreamKey
from streamer.worker.stream import Place, Stream, behind

if TYPE_CHECKING:
    from streamer.codecs.event_columns import Events


class Later(msgspec.Struct, gc=False, eq=False):
    """Records `begin` to `end` of a batch in columns, each made when somebody asks for it; all have one key."""

    events: Events
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, index: int) -> tuple[Record, Decoded]:
        return self.events.pick([range(self.begin, self.end)[index]])[0]

    @property
    def whole(self) -> slice:
        """With the record before them, which the item has."""
        return slice(self.begin - 1, self.end)


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
    later: list[tuple[Record, Decoded]] | Later = []
    stream: Stream = cast(Stream, None)  # set before anybody looks: what is ready to be stepped has a stream
    before: Place | None = None
    pieces: list[Samples] = []
    count: Counter[str] | None = None
    decided: bool = False

    def singles(self) -> list[Item]:
        """A run's records one by one, as they were before they were put together."""
        return [Item(self.key, record, decoded) for record, decoded in self.parts()]

    def parts(self) -> list[tuple[Record, Decoded]]:
        """A run's records and their content."""
        later = self.later
        rest = later.events.pick(range(later.begin, later.end)) if isinstance(later, Later) else later
        return [(self.record, self.decoded), *rest]

    def behind(self) -> Place:
        """Where a run's stream stands after it."""
        later = self.later
        if isinstance(later, Later):
            events, last = later.events, later.end - 1
            return behind(events.offsets[last], events.times_ms[last], events.seqs[last])
        record, decoded = later[-1]
        return behind(record.offset, decoded.time_ms, decoded.seq)

    def samples(self) -> Samples:
        """(n, C): those of a run's n events."""
        if isinstance(self.later, Later):
            return self.later.events.samples[self.later.whole]
        return np.concatenate([decoded.samples for _, decoded in self.parts()])

    def offsets(self) -> Sequence[int]:
        """Of all its records."""
        if isinstance(self.later, Later):
            return self.later.events.offsets[self.later.whole]
        return [self.record.offset, *(record.offset for record, _ in self.later)]

    def times_ms(self) -> Sequence[int]:
        """The event times of all its records."""
        if isinstance(self.later, Later):
            return self.later.events.times_ms[self.later.whole]
        return [self.decoded.time_ms, *(decoded.time_ms for _, decoded in self.later)]

    @property
    def of_one_key(self) -> bool:
        """Whether all its records have the same key."""
        return isinstance(self.later, Later) or all(record.key == self.record.key for record, _ in self.later)

    @property
    def bare(self) -> bool:
        """Whether none of its records has headers."""
        rest = isinstance(self.later, Later) or not any(record.headers for record, _ in self.later)
        return rest and not self.record.headers
