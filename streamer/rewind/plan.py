"""What running a stream again takes: from which state and record, from where on it speaks, and where it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.bundle import Bundle
from streamer.codecs.base import Decoder
from streamer.errors import InputError, OffsetGone, StateMismatch, TopicMissing
from streamer.log.base import Log, OffsetRange
from streamer.options import PipelineOptions
from streamer.records import TopicPartition
from streamer.rewind.find import Course, Kept, courses_of, kept_snapshots, told_starts
from streamer.tasks.base import Task
from streamer.worker import topics
from streamer.worker.results import StreamKey


@dataclass(frozen=True, slots=True)
class Rewound:
    """The pipeline whose streams are run again, with the model to do it."""

    application: str
    name: str
    options: PipelineOptions
    bundle: Bundle
    task: Task
    decoder: Decoder

    @property
    def group(self) -> str:
        """The live group."""
        return topics.group_of(self.application, self.name)

    @property
    def snapshots(self) -> str:
        """The topic of its kept snapshots."""
        return topics.snapshots_of(topics.changelog_of(self.group, self.options.input.topic))

    def source(self, role: str = topics.LIVE) -> str:
        """The `ce_source` of what is said in a role."""
        return topics.source_of(self.application, self.name, role)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a partition: an offset, or the first record of a time (Unix milliseconds)."""

    offset: int | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one stream is run again: from `begin` with the state of a snapshot, or with none where the stream begins
    there; it speaks from `target` on, and stops before `end`."""

    stream: str
    partition: TopicPartition
    begin: int
    snapshot: Kept | None
    target: int
    end: int


async def plans_of(
    log: Log,
    pipeline: Rewound,
    streams: Sequence[str],
    to: Place | None,
    until: Place | None = None,
    partition: int | None = None,
) -> list[Plan]:
    """A plan for each stream. to: None is where it begins. partition: where the streams are, None to find out.

    Raises TopicMissing, InputError (an unknown stream, one in several partitions, a place that is not there),
    OffsetGone (the log does not reach back that far), StateMismatch (only another model's snapshots do), LogError.
    """
    names = await _partitions(log, pipeline.options.input.topic, partition)
    kept = await log.offsets(names)
    wanted = frozenset(streams)
    decoder, options = pipeline.decoder, pipeline.options.streams
    told = {name: await courses_of(log, name, kept[name].end, decoder, options, wanted) for name in names}
    where = {stream: _only_partition(stream, told) for stream in streams}
    keys = frozenset(StreamKey(name.partition, stream) for stream, name in where.items())
    said = await told_starts(log, pipeline.options.outputs.streams, pipeline.source(), keys)
    plans = []
    for stream, name in where.items():
        course, bounds = told[name][stream], kept[name]
        starts = _starts(course, said.get(StreamKey(name.partition, stream), ()), bounds)
        snapshots = (await kept_snapshots(log, pipeline.snapshots, name.partition, [stream]))[stream]
        end = bounds.end if until is None else await _offset_of(log, name, until, bounds)
        finder = _Finder(stream, name, bounds, starts, snapshots, pipeline.bundle.tag)
        target = finder.latest_start(end) if to is None else await _offset_of(log, name, to, bounds)
        if target > end:
            raise InputError(f"{stream}: offset {target} of {name} lies behind the end of the range, {end}")
        begin, snapshot = finder.base(target)
        plans.append(Plan(stream, name, begin, snapshot, target, end))
    return plans


@dataclass(frozen=True, slots=True)
class _Finder:
    """Where one stream can be run from."""

    stream: str
    partition: TopicPartition
    kept: OffsetRange
    starts: Sequence[int]
    snapshots: Sequence[Kept]
    model: str

    def latest_start(self, end: int) -> int:
        starts = [start for start in self.starts if start < end]
        if not starts:
            raise OffsetGone(f"{self._not_kept()}: {self._reach()}")
        return starts[-1]

    def base(self, target: int) -> tuple[int, Kept | None]:
        """The nearest beginning or snapshot at or before an offset."""
        usable = [s for s in self._reachable() if s.position <= target and s.model == self.model]
        snapshot = max(usable, key=lambda s: s.position, default=None)
        start = max((start for start in self.starts if start <= target), default=None)
        if snapshot is not None and (start is None or snapshot.position > start):
            return snapshot.position, snapshot
        if start is not None:
            return start, None
        others = sorted({s.model for s in self._reachable() if s.position <= target and s.model != self.model})
        if others:
            raise StateMismatch(
                f"{self._not_kept()}, and the snapshots before offset {target} are of {', '.join(others)}, this is "
                f"{self.model}: run it again with the model that wrote them"
            )
        raise OffsetGone(f"{self._not_kept()}, nor a snapshot from before offset {target}: {self._reach()}")

    def _reachable(self) -> list[Kept]:
        return [snapshot for snapshot in self.snapshots if snapshot.position >= self.kept.begin]

    def _not_kept(self) -> str:
        return f"{self.partition} is kept from offset {self.kept.begin}: the beginning of {self.stream!r} is not there"

    def _reach(self) -> str:
        positions = [s.position for s in self._reachable() if s.model == self.model]
        if not positions:
            return "no snapshot of it is kept either (commit.keep_snapshots_s keeps them)"
        return f"its kept snapshots reach back to offset {min(positions)}"


async def _partitions(log: Log, topic: str, only: int | None) -> list[TopicPartition]:
    there = await log.topics()
    if topic not in there:
        raise TopicMissing(f"there is no topic {topic!r}, the pipeline's input")
    count = there[topic].partitions
    if only is not None and only >= count:
        raise InputError(f"{topic!r} has {count} partitions: there is no number {only}")
    return [TopicPartition(topic, n) for n in (range(count) if only is None else [only])]


def _only_partition(stream: str, told: Mapping[TopicPartition, Mapping[str, Course]]) -> TopicPartition:
    found = [name for name, part in told.items() if stream in part]
    if not found:
        raise InputError(f"no record of stream {stream!r} is kept in {', '.join(map(str, told))}")
    if len(found) > 1:
        raise InputError(f"stream {stream!r} is in {', '.join(map(str, found))}: say which with --partition")
    return found[0]


def _starts(course: Course, said: Sequence[int], kept: OffsetRange) -> list[int]:
    """Where a stream surely begins: by its records, or because the pipeline said so."""
    read = course.starts if course.whole else [start for start in course.starts if start != course.first]
    return sorted({*read, *(start for start in said if start >= kept.begin)})


async def _offset_of(log: Log, name: TopicPartition, place: Place, kept: OffsetRange) -> int:
    offset = place.offset
    if offset is None:
        offset = await log.offset_at(name, place.time_ms or 0)
    if offset < kept.begin:
        raise OffsetGone(f"{name} is kept from offset {kept.begin}, not from {offset}")
    if offset > kept.end:
        raise InputError(f"{name} holds offsets {kept.begin} to {kept.end}: {offset} is not there yet")
    return offset
