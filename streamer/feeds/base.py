"""What a feed is: an async source of keyed records. Feeds know payloads and pace; they know no log and no model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from streamer.records import NewRecord


class Feed(Protocol):
    """A source of records.

    name: what it is called in messages to people. live: a live source cannot wait, so the pump buffers a stated number
    of seconds, then drops the oldest and marks the gap; any other source waits on `append`.
    """

    @property
    def name(self) -> str: ...

    @property
    def live(self) -> bool: ...

    def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        """Batches of records, each keyed by its stream, until the source ends.

        Every stream's first record has a header `x-session` (unless the payload carries one), and the last one `x-eos`
        where the source knows that it ended. Raises InputError (no such device or file, not audio, missing columns).
        """
        ...
