"""What goes from the engine's thread to the committer: one object a call, columns inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from streamer.codecs.messages import Role
from streamer.records import NewRecord


class StreamKey(NamedTuple):
    """A stream within a pipeline: its input partition and its id."""

    partition: int
    id: str


class Pending(NamedTuple):
    """An encoded output, caused by the record at `offset` of `partition`."""

    partition: int
    offset: int
    role: Role
    record: NewRecord
    decision: bool


class Copy(NamedTuple):
    """A stream's saved state, true for `position`; `live` is false for the mark of a stream that is gone."""

    stream: StreamKey
    key: bytes
    position: int
    data: bytes
    live: bool


@dataclass(slots=True)
class CallResult:
    """What one call did. finished: (partition, offset); stepped: streams whose state took in the record at offset."""

    finished: list[tuple[int, int]] = field(default_factory=list)
    stepped: list[tuple[StreamKey, int]] = field(default_factory=list)
    outputs: list[Pending] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
