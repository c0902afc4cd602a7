"""Opening a partition: what was saved of it is read from the log and taken into the table."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from streamer.codecs.messages import Output, Role, StreamEvent, iso_time
from streamer.errors import StateMismatch
from streamer.log.base import Consumer, Log
from streamer.options import PipelineOptions
from streamer.records import NewRecord, Record, TopicPartition
from streamer.worker.progress import Progress
from streamer.worker.restore import Restored, restore
from streamer.worker.results import Copy, StreamKey
from streamer.worker.stepper import Stepper
from streamer.worker.table import state_key

logger = logging.getLogger(__name__)


class Opening:
    """Opens partitions for one session: `read` on the event loop, then `take_in` on the engine's thread, in parts."""

    def __init__(
        self, log: Log, consumer: Consumer, stepper: Stepper, options: PipelineOptions, changelog: str
    ) -> None:
        self._log = log
        self._consumer = consumer
        self._stepper = stepper
        self._options = options
        self._changelog = changelog

    async def read(self, partition: TopicPartition) -> Restored:
        """What was saved. Raises OffsetGone, LogUnavailable."""
        return await restore(self._log, self._changelog, partition, await self._consumer.committed(partition))

    def books(self, partition: TopicPartition, saved: Restored) -> Progress:
        """The partition's books as they were left."""
        return Progress(
            partition,
            changelog=self._changelog,
            topic_of=self._topic_of,
            committed=saved.committed,
            position=saved.position,
            metadata=saved.metadata,
            written_floor=saved.floor,
        )

    def take_in(self, progress: Progress, states: Sequence[Record]) -> dict[str, str]:
        """Saved states into the table; why some were not taken, by stream.

        Raises StateMismatch where the policy refuses a state that does not fit.
        """
        partition = progress.partition
        mismatches: dict[str, str] = {}
        for record in states:
            key = record.key or b""
            try:
                snapshot = self._stepper.table.restore(partition.partition, key, record.value or b"")
            except StateMismatch as mismatch:
                self._may_reset(record.coordinates, mismatch)
                mismatches[key.decode(errors="replace")] = str(mismatch)
                continue
            if snapshot.stream is None:
                identity = StreamKey(partition.partition, key.decode())
                mark = Copy(identity, state_key(identity), snapshot.mark.position, record.value or b"", False)
                progress.restored_mark(mark)
        return mismatches

    def _may_reset(self, coordinates: str, mismatch: StateMismatch) -> None:
        if self._options.on_state_mismatch == "refuse":
            raise StateMismatch(
                f"{coordinates}: {mismatch}; serve it with the model that wrote it, or set "
                "on_state_mismatch: reset to begin its streams afresh"
            ) from mismatch
        logger.warning("state reset: %s: %s", coordinates, mismatch)

    def resets(self, partition: TopicPartition, offset: int, mismatches: Mapping[str, str]) -> list[NewRecord]:
        """Streams whose saved state was not taken begin afresh, and that is said (rule 10: never silently)."""
        now_ms = int(time.time() * 1000)
        records = []
        for name, reason in mismatches.items():
            body = StreamEvent(stream=name, event="reset", time=iso_time(now_ms), reason=reason)
            said = Output(body, name.encode(), f"reset-of-{name}", 0, now_ms, True)
            records.append(self._stepper.outbox.own(said, partition, offset))
        return records

    def _topic_of(self, role: Role) -> str:
        name: str = getattr(self._options.outputs, role)
        return name
