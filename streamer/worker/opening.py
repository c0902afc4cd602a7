"""Opening a partition: what was saved of it is read from the log and taken into the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamer.codecs.messages import Role
from streamer.errors import StateMismatch
from streamer.log.base import Committed, Consumer, Log
from streamer.options import PipelineOptions
from streamer.records import Record, TopicPartition
from streamer.worker.changelog import Changelogs, Copied
from streamer.worker.header import Known
from streamer.worker.ledger import EpochLedger, Ledger, PlainLedger
from streamer.worker.progress import Progress
from streamer.worker.restore import Restored, not_behind, read_changelog, restore
from streamer.worker.results import CallResult, Copy, PartitionResult, StreamKey, make_key
from streamer.worker.standby import Standby
from streamer.worker.stepper import Stepper
from streamer.worker.topic_checks import TopicWatch
from streamer.worker.topics import snapshots_of, written_topics


class Opening:
    """Opens partitions for one session: `read` on the event loop, then `take_in` on the engine's thread, in parts."""

    def __init__(
        self,
        log: Log,
        consumer: Consumer,
        stepper: Stepper,
        options: PipelineOptions,
        changelog: str,
        begin: Mapping[TopicPartition, int],
    ) -> None:
        """begin: where a partition of which nothing is committed is read from, if not from its lowest offset."""
        self._log = log
        self._consumer = consumer
        self._stepper = stepper
        self._options = options
        self._changelog = changelog
        self._changelogs = Changelogs(log)
        self._begin = begin
        self.standby = Standby(log, changelog) if options.commit.standby else None
        kept = options.commit.keep_snapshots_s is not None
        self._snapshots = snapshots_of(changelog) if kept else None
        self._watch = TopicWatch(log, options.input.topic, changelog, written_topics(options))

    async def look(self) -> None:
        """Raises TopicMismatch where a topic's partitions are not what they were when the first of them was opened."""
        await self._watch.look()

    async def read(self, partition: TopicPartition) -> Restored:
        """What was saved. Raises OffsetGone, StateMismatch, TopicMismatch, LogError."""
        await self.look()
        committed = await self._committed(partition)
        place = TopicPartition(self._changelog, partition.partition)
        changelog = await read_changelog(self._changelogs, place, committed, self.take_over(partition))
        if self._consumer.transactional and not changelog.before.rooted:
            committed = await not_behind(changelog, committed, lambda: self._committed(partition), partition)
        return await restore(self._log, partition, changelog, committed)

    def take_over(self, partition: TopicPartition) -> Copied | None:
        """A partition is this worker's from now on: what was copied of its changelog meanwhile, if anything."""
        place = TopicPartition(self._changelog, partition.partition)
        return None if self.standby is None else self.standby.take_over(place)

    def leave(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions are others' from now on."""
        if self.standby is not None:
            self.standby.follow(TopicPartition(self._changelog, partition.partition) for partition in partitions)

    async def _committed(self, partition: TopicPartition) -> Committed | None:
        committed = await self._consumer.committed(partition)
        if committed is None and (wanted := self._begin.get(partition)) is not None:
            return Committed(max(wanted, (await self._log.offsets([partition]))[partition].begin), "")
        return committed

    def _ledger(self, saved: Restored) -> Ledger:
        if self._consumer.transactional and not saved.before.rooted:
            return PlainLedger(self._changelog, saved.before.stale)
        return EpochLedger(self._changelog, saved.before)

    def books(self, partition: TopicPartition, saved: Restored) -> Progress:
        """The partition's books as they were left. Raises StateMismatch for a re-run that no version at hand can do."""
        progress = Progress(
            partition,
            changelog=self._changelog,
            snapshots=self._snapshots,
            topic_of=self._topic_of,
            committed=saved.committed,
            position=saved.position,
            metadata=saved.metadata,
            written_floor=saved.floor,
            timeline=saved.timeline,
            ledger=self._ledger(saved),
        )
        self._check_beginnings(progress)
        self._stepper.versions.live_from[partition.partition] = progress.committed
        return progress

    def begin_with_current(self, progress: Progress, offset: int) -> None:
        """From `offset` on streams of the partition begin with the current version."""
        versions = self._stepper.versions
        versions.timelines[progress.partition.partition] = progress.timeline
        progress.timeline.go_on(offset, versions.current.model)

    def take_in(self, progress: Progress, states: Sequence[Record]) -> PartitionResult:
        """Saved states into the table, where they lie dormant. Returns what is to be said of those that do not fit.

        Raises StateMismatch where the policy refuses a state that does not fit.
        """
        number, result, fitting = progress.partition.partition, CallResult(), Known()
        self._take_in_one_by_one(progress, states[:1], fitting, result)
        known, others = fitting.sort_out(states[1:])  # most are of one writer, and there are thousands
        self._stepper.table.dormant.lay_all(number, {_key_of(number, record): record for record in known})
        self._take_in_one_by_one(progress, others, fitting, result)
        return result[number]

    def _take_in_one_by_one(
        self, progress: Progress, states: Sequence[Record], fitting: Known, result: CallResult
    ) -> None:
        for record in states:
            stream = _key_of(progress.partition.partition, record)
            try:
                mark = self._stepper.table.lay_down(stream, record, fitting)
            except StateMismatch as mismatch:
                self._stepper.waking.give_up(stream, record, mismatch, result)
                continue
            if mark is not None:
                progress.restored_mark(Copy(stream, record.key or b"", mark.position, record.value or b"", False))

    def _check_beginnings(self, progress: Progress) -> None:
        """Streams that are to begin again in a re-run need the version that they began with (promise 5)."""
        if self._options.on_state_mismatch != "refuse":
            return
        for model in progress.timeline.within(progress.watermark, progress.committed):
            if self._stepper.versions.of(model) is None:
                raise StateMismatch(
                    f"{progress.partition}: records from {progress.watermark} to before {progress.committed} are to be "
                    f"stepped again, streams began there with model {model!r}: serve it with that model (also: ...), "
                    "or set on_state_mismatch: reset or warm_up"
                )

    def _topic_of(self, role: Role) -> str:
        name: str = getattr(self._options.outputs, role)
        return name


def _key_of(partition: int, record: Record) -> StreamKey:
    return make_key((partition, (record.key or b"").decode(errors="replace")))
