"""What waits in the batcher: a record and what was decoded from it."""

from __future__ import annotations

from typing import NamedTuple

from streamer.codecs.base import Decoded
from streamer.records import Record


class Item(NamedTuple):
    """A decoded record on its way. `skip` is why it is passed over on purpose (skip to live), or empty."""

    record: Record
    decoded: Decoded
    skip: str = ""
