"""Dormant streams are taken in before they are touched, and one after the other in the background.

A state that turns out not to fit is treated alike whenever that is found: `refuse` ends the worker, `reset` says so
and lets the stream begin afresh behind everything that was committed when its partition was opened. Records before
that are answered already; where the lost state stood is not believed, for nothing it says of itself is known to be
true. What is said and the mark that takes the state's place are in one commit (DESIGN.md rules 2 and 5).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from msgspec.structs import replace

from streamer.codecs.messages import Output, StreamEvent, iso_time
from streamer.errors import StateMismatch
from streamer.options import PipelineOptions
from streamer.records import Record
from streamer.worker.header import LaterLayout
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.snapshot import Mark
from streamer.worker.table import StreamTable
from streamer.worker.version import Versions

logger = logging.getLogger(__name__)


class Waking:
    """Owned by the engine's thread. Every method raises StateMismatch where the policy refuses."""

    def __init__(self, table: StreamTable, versions: Versions, options: PipelineOptions) -> None:
        self._table = table
        self._versions = versions
        self._refuses = options.on_state_mismatch == "refuse"
        self._topic = options.input.topic

    def wake(self, keys: Iterable[StreamKey], result: CallResult) -> None:
        """Take in those of these streams that lie dormant."""
        dormant = self._table.dormant
        for key in keys:
            if (saved := dormant.get(key)) is None:
                continue
            try:
                self._table.wake(key)
            except StateMismatch as mismatch:
                self.give_up(key, saved, mismatch, result)

    def wake_some(self, partition: int, most: int) -> CallResult | None:
        """Take in up to `most` dormant streams of a partition; None when there is none left."""
        keys = self._table.dormant.first(partition, most)
        if not keys:
            return None
        result = CallResult()
        self.wake(keys, result)
        return result

    def _goes_on(self, key: StreamKey, saved: Record) -> bool:
        """Whether only the recurrent state is lost: then the stream changes over at its next record."""
        try:
            self._table.take_in_without(key, saved)
        except StateMismatch:
            return False
        return True

    def give_up(self, key: StreamKey, saved: Record, mismatch: StateMismatch, result: CallResult) -> None:
        """What `saved` holds of a stream is not taken; that is never silent (rule 10).

        What a later version of streamer wrote is refused whatever the policy: during a rolling upgrade the workers that
        are left of the older version undo nothing.
        """
        if isinstance(mismatch, LaterLayout):
            raise LaterLayout(f"{saved.coordinates}: {mismatch}") from mismatch
        if self._refuses:
            raise StateMismatch(
                f"{saved.coordinates}: {mismatch}; serve it with the model that wrote it, or set "
                "on_state_mismatch: reset or warm_up to begin its streams afresh"
            ) from mismatch
        logger.warning("state reset: %s: %s", saved.coordinates, mismatch)
        if self._goes_on(key, saved):
            return
        begins = self._versions.live_from.get(key.partition, 0)
        part = result[key.partition]
        before = len(part.outputs)
        now_ms = int(time.time() * 1000)
        body = StreamEvent(stream=key.id, event="reset", time=iso_time(now_ms), reason=str(mismatch))
        said = Output(body, key.id.encode(), f"reset-of-{key.id}", 0, now_ms, True)
        cause = Record(self._topic, key.partition, begins, now_ms, key.id.encode(), None, ())
        self._versions.current.outbox.say(result, cause, [said])
        part.outputs[before:] = [replace(said, offset=begins - 1) for said in part.outputs[before:]]  # with its mark
        part.copies.append(self._table.leave_mark(key, Mark(begins)))
