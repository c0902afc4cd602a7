"""A record on its way through the worker: what waits in the batcher, is stepped, and is finished."""

from __future__ import annotations

from collections import Counter
from typing import cast

import msgspec

from streamer.codecs.base import Decoded, Samples
from streamer.records import Record
from streamer.worker.results import StreamKey
from streamer.worker.stream import Stream


class Item(msgspec.Struct, gc=False, eq=False):
    """A decoded record of the stream `key`. One object from intake to its end: a record a time is what costs.

    skip: why it is passed over on purpose (skip to live), or empty. The rest is the stepper's: the stream it steps,
    the pieces that its samples were cut into, how many messages of each kind it has said (where it has several
    pieces), and whether a decision was published with it, so that the stream is saved in the same commit.
    """

    key: StreamKey
    record: Record
    decoded: Decoded
    skip: str = ""
    stream: Stream = cast(Stream, None)  # set before anybody looks: what is ready to be stepped has a stream
    pieces: list[Samples] = []
    count: Counter[str] | None = None
    decided: bool = False
