"""What goes from the engine's thread to the committer: one object a call, by partition, columns inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from streamer.worker.pending import Said

if TYPE_CHECKING:
    from streamer.worker.item import Item


class StreamKey(NamedTuple):
    """A stream within a pipeline: its input partition and its id."""

    partition: int
    id: str


make_key: Callable[[tuple[int, str]], StreamKey]
make_key = partial(tuple.__new__, StreamKey)
"""`StreamKey(*fields)` where thousands are made: in half the time."""


class Copy(NamedTuple):
    """A stream's saved state, true for `position`; `live` is false for the mark of a stream that is gone."""

    stream: StreamKey
    key: bytes
    position: int
    data: bytes
    live: bool


@dataclass(slots=True)
class PartitionResult:
    """What one call did to one partition. finished: offsets; stepped: streams that took in the record at an offset."""

    finished: list[int] = field(default_factory=list)
    stepped: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[Said] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)


class CallResult(dict[int, PartitionResult]):
    """What one call did, by partition number; a partition's part is there as soon as it is asked for.

    begun: records of which pieces are left for a later call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Item] = []

    def __missing__(self, partition: int) -> PartitionResult:
        part = self[partition] = PartitionResult()
        return part

    def add_copies(self, copies: list[Copy]) -> None:
        """Saved states, each to its partition."""
        for copy in copies:
            self[copy.stream.partition].copies.append(copy)
