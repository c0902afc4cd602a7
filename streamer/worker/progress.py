"""One input partition's progress: what is finished, what waits to be published, what is saved. Pure bookkeeping.

It turns the engine's results into the content of the next commit (DESIGN.md rules 2 to 5): for the watermark N exactly
the outputs caused by offsets below N, state copies that are true for an offset <= N, the replay floor and N itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from streamer.codecs.messages import Role
from streamer.columns import RecordColumns
from streamer.log.base import Commit
from streamer.records import Append, NewRecord, Record, TopicPartition
from streamer.worker.ledger import Ledger, PlainLedger
from streamer.worker.pending import Said, by_topic, parted, unpublished
from streamer.worker.results import Copy, PartitionResult
from streamer.worker.timeline import TIMELINE_KEY, Timeline
from streamer.worker.topics import KEPT_BYTES
from streamer.worker.watermark import Watermark

T = TypeVar("T")
FLOOR_KEY = b"\x00floor"
"""Changelog key of a partition's replay floor; no stream id starts with a zero byte."""
RECORD_OVERHEAD_BYTES = 200
"""What a record costs in memory beside its value, about."""


class _Closing(NamedTuple):
    """A commit's content, closed before it begins and kept until it is settled (rule 7)."""

    commit: Commit
    outputs: list[Said]
    copies: list[Copy]
    floor: int
    dead: list[Copy]
    timeline: bytes


class Progress:
    """Everything between a partition's reads and its commits.

    committed: N as last committed; records below it are re-run, their per-record outputs suppressed. position: where
    reading starts, the replay floor. metadata: what the committed offset carries, an id of its commit's own.
    """

    def __init__(
        self,
        partition: TopicPartition,
        *,
        changelog: str,
        topic_of: Callable[[Role], str],
        committed: int,
        position: int,
        metadata: str = "",
        written_floor: int | None = None,
        snapshots: str | None = None,
        timeline: Timeline | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """snapshots: the topic that keeps older states too, None where none are kept; timeline: as it is written;
        ledger: how commits lie in the changelog, None for as they are."""
        self.partition = partition
        self.committed = committed
        self.metadata = metadata
        self.inflight_bytes = 0
        self._changelog = changelog
        self._ledger = ledger or PlainLedger(changelog)
        self._snapshots = snapshots
        self._topic_of = topic_of
        self._suppress_below = committed
        self._watermark = Watermark(position)
        self._written_floor = written_floor
        self.timeline = timeline or Timeline()
        self._written_timeline = self.timeline.dump()
        self._outputs: list[Said] = []
        self._copies: dict[str, list[Copy]] = {}
        self._stepped: dict[str, list[int]] = {}
        self._marks: dict[str, Copy] = {}
        self._sizes: deque[tuple[int, int, int]] = deque()
        self._closing: _Closing | None = None

    # ------------------------------------------------------------------ what happened

    def deliver(self, records: Sequence[Record], next_offset: int) -> None:
        """Records were read; their bytes stay in flight until they are committed."""
        if isinstance(records, RecordColumns):
            self._watermark.deliver(records.offsets.tolist(), next_offset)
            value_bytes = records.value_bytes
        else:
            self._watermark.deliver((r.offset for r in records), next_offset)
            value_bytes = sum(len(r.value) for r in records if r.value is not None)
        if records:
            total = RECORD_OVERHEAD_BYTES * len(records) + value_bytes
            self._sizes.append((records[-1].offset, total, records[0].timestamp_ms))
            self.inflight_bytes += total

    def apply(self, result: PartitionResult) -> None:
        """Enter what a call did: what it said, which streams took in which records, what was saved, what is finished.

        Messages that were published before are left out: a re-run says only decisions anew (rule 4). Copies wait until
        N has reached their positions.
        """
        self._outputs += unpublished(result.outputs, self._suppress_below)
        for stream, offset in result.stepped:
            if (offsets := self._stepped.get(stream)) is None:
                self._stepped[stream] = [offset]
            else:
                offsets.append(offset)
        for copy in result.copies:
            self._copies.setdefault(copy.stream.id, []).append(copy)
        self._watermark.finish(result.finished)

    def came_back(self) -> None:
        """Another owner had the partition and committed nothing, but may have written a floor before it died."""
        self._written_floor = None

    def restored_mark(self, mark: Copy) -> None:
        """The changelog holds the mark of a stream that is gone; it becomes a tombstone when the floor has passed."""
        self._marks[mark.stream.id] = mark

    # ------------------------------------------------------------------ what is due

    @property
    def watermark(self) -> int:
        return self._watermark.value

    @property
    def read_to(self) -> int:
        """Where reading goes on."""
        return self._watermark.position

    @property
    def rerun(self) -> int:
        """Offsets between the replay floor that is written and what is committed: a new owner steps at most these."""
        return 0 if self._written_floor is None else max(0, self.committed - self._written_floor)

    @property
    def unfinished(self) -> int:
        return self._watermark.unfinished

    @property
    def at_rest(self) -> bool:
        """Whether everything read is finished, published and committed: the states are true for `committed`."""
        waits = self._outputs or self._copies or self._closing is not None
        return not waits and not self.unfinished and self.watermark == self.committed

    @property
    def quiet(self) -> bool:
        """Whether the next commit would only move offsets: nobody waits for it."""
        return not (self._outputs or self._copies or self._closing)

    @property
    def oldest_unread_ms(self) -> int | None:
        """Timestamp of the oldest batch that was read and not committed, None when there is none."""
        return self._sizes[0][2] if self._sizes else None

    def unsaved(self) -> list[tuple[str, int]]:
        """Streams whose state is ahead of what is saved, with their first unsaved offset, oldest first (rule 3)."""
        return sorted(((name, offsets[0]) for name, offsets in self._stepped.items()), key=lambda pair: pair[1])

    def close(self) -> Commit | None:
        """The content of the next commit, None when there is nothing to say. It stays closed until `settle`."""
        if self._closing is not None:
            return self._closing.commit
        n = self._watermark.value
        if n < self.committed:  # re-running: nothing below what was committed is committed again
            self._release(n)
            return None
        outputs, rest = parted(self._outputs, n)
        copies = self._ready_copies(n)
        floor = self._floor_after(copies, n)
        # One that lives again needs its mark until its own state takes the place: a re-run begins it with the mark.
        alive_again = self._stepped.keys() | {c.stream.id for c in copies}
        dead = [c for name, c in self._marks.items() if c.position < floor and name not in alive_again]
        self.timeline.forget(floor)
        floors = self._floors(floor)
        if n == self.committed and not outputs and not copies and not dead and not floors:
            self._release(n)
            return None
        commit = Commit(
            partition=self.partition,
            offset=n,
            metadata=uuid4().hex,
            outputs=self._appends(outputs),
            states=[*self._changes([NewRecord(c.key, c.data) for c in copies]), *self._kept(copies)],
            floor=self._changes(floors),
            tombstones=self._changes([NewRecord(c.key, None) for c in dead]),
        )
        commit = self._ledger.close(commit)
        self._outputs = rest
        self._closing = _Closing(commit, outputs, copies, floor, dead, self.timeline.dump())
        return commit

    def settle(self) -> list[Copy]:
        """The closed content is durable. Returns the marks that became tombstones."""
        if self._closing is None:
            return []
        commit, _, copies, floor, dead, timeline = self._closing
        self._ledger.settle()
        for mark in dead:
            if self._marks.get(mark.stream.id) is mark:
                del self._marks[mark.stream.id]
        for copy in copies:
            self._settle_copy(copy)
        self.committed, self.metadata, self._written_floor = commit.offset, commit.metadata, floor
        self._written_timeline = timeline
        self._closing = None
        self._release(commit.offset)
        return dead

    def _release(self, below: int) -> None:
        """Batches that are finished are in flight no more; a re-run's too, or reading would stay paused for ever."""
        while self._sizes and self._sizes[0][0] < below:
            self.inflight_bytes -= self._sizes.popleft()[1]

    def _settle_copy(self, copy: Copy) -> None:
        name = copy.stream.id
        _keep(self._copies, name, [c for c in self._copies[name] if c.position > copy.position])
        if name in self._stepped:
            _keep(self._stepped, name, _from(self._stepped[name], copy.position))
        if copy.live:
            self._marks.pop(name, None)
        else:
            self._marks[name] = copy

    def _ready_copies(self, n: int) -> list[Copy]:
        """The newest copy of every stream that is true for an offset <= N."""
        fitting = ([c for c in copies if c.position <= n] for copies in self._copies.values())
        return [fit[-1] for fit in fitting if fit]

    def _floor_after(self, copies: Iterable[Copy], n: int) -> int:
        """The lowest offset below N that no saved state contains once `copies` are saved, else N (rule 3)."""
        saved = {c.stream.id: c.position for c in copies}
        lowest = n
        for name, offsets in self._stepped.items():
            first = offsets[0]
            if first < lowest:
                if name in saved:
                    rest = _from(offsets, saved[name])
                    first = rest[0] if rest else n
                lowest = min(lowest, first)
        return lowest

    def _floors(self, floor: int) -> list[NewRecord]:
        """The floor and the timeline, each where it changed."""
        records = []
        if floor != self._written_floor:
            records.append(NewRecord(FLOOR_KEY, str(floor).encode()))
        if (timeline := self.timeline.dump()) != self._written_timeline:
            records.append(NewRecord(TIMELINE_KEY, timeline))
        return records

    def _appends(self, outputs: Sequence[Said]) -> list[Append]:
        records = by_topic(outputs, self._topic_of)
        return [Append(topic, self.partition.partition, mine) for topic, mine in records]

    def _kept(self, copies: Sequence[Copy]) -> list[Append]:
        """The states once more, for the topic that keeps them; one that it does not take is not kept."""
        live = [c for c in copies if c.live and len(c.data) <= KEPT_BYTES]
        if self._snapshots is None or not live:
            return []
        records = [NewRecord(c.stream.id.encode(), c.data) for c in live]
        return [Append(self._snapshots, self.partition.partition, records)]

    def _changes(self, records: list[NewRecord]) -> list[Append]:
        return [Append(self._changelog, self.partition.partition, records)] if records else []


def _from(offsets: list[int], position: int) -> list[int]:
    """The offsets at or above `position`; they rise."""
    return offsets[bisect_left(offsets, position) :]


def _keep(table: dict[str, list[T]], name: str, rest: list[T]) -> None:
    if rest:
        table[name] = rest
    else:
        del table[name]


def floor_of(value: bytes | None) -> int:
    """The offset in a floor record."""
    return msgspec.json.decode(value or b"0", type=int)
