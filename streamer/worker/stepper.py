"""The stepper: everything that happens to streams, on the engine's thread, one record of a stream after the other.

Front end, network and task of one record advance together. The stepper knows streams and records; it neither reads
nor commits: what a call did goes back as one `CallResult`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from streamer.codecs.base import Samples
from streamer.codecs.messages import Output
from streamer.options import PipelineOptions
from streamer.records import Record
from streamer.tasks.base import PlainTask
from streamer.worker.item import Item
from streamer.worker.lifecycle import Lifecycle
from streamer.worker.outbox import Outbox, numbered
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.rows import Rows, rows_of
from streamer.worker.stream import (
    STEP,
    Place,
    Stream,
    Verdict,
    follow,
    follow_if_next,
    judge,
    place_of,
    put,
    soon,
)
from streamer.worker.table import StreamTable
from streamer.worker.version import Version, Versions
from streamer.worker.waking import Waking


class Stepper:
    """Steps the streams of one pipeline, each in its version of the model. Used by one thread only."""

    def __init__(self, versions: Versions, options: PipelineOptions) -> None:
        self.versions = versions
        self.table = StreamTable(versions)
        self._options = options.streams
        self.waking = Waking(self.table, versions, options)
        self._life = Lifecycle(self.table, versions, self.waking, options.streams, options.input.topic)
        self._one_piece = options.engine.deterministic
        self._soon_ms = soon(options.streams)
        self._busy: Sequence[StreamKey] = ()

    @property
    def outbox(self) -> Outbox:
        """Says what no stream says."""
        return self.versions.current.outbox

    @property
    def rate_hz(self) -> int:
        """The model's sample rate, 0 for events."""
        return self.versions.current.rate_hz

    def run(self, call: Sequence[tuple[StreamKey, Sequence[Item]]]) -> CallResult:
        """Step every stream of the call through its items. Raises DeviceLost; nothing may be committed then."""
        result = CallResult()
        self._busy = [key for key, _ in call]
        if len(self.table.dormant):
            self.waking.wake(self._busy, result)
        self._step_lines([items for _, items in call], result)
        return result

    def _step_lines(self, lines: Sequence[Sequence[Item]], result: CallResult) -> None:
        """Step streams through their items, the first of each together, then the second of each, and so on."""
        for rank in range(max(map(len, lines))):
            ready, apart = self._ready([items[rank] for items in lines if rank < len(items)], result)
            if ready:
                apart += self._step_items(ready, result)
            if apart:
                self._step_lines([run.singles() for run in apart], result)

    def end_idle(self, before_ms: int, partition: int) -> CallResult:
        """End a partition's streams whose last record is older, by the wall clock (DESIGN.md rule 6)."""
        result = CallResult()
        self.waking.wake(self.table.dormant.idle_since(before_ms, partition), result)
        for key in self.table.idle_since(before_ms, partition):
            self._life.end(key, self.table.streams[key], "idle", result)
        return result

    def _ready(self, items: Sequence[Item], result: CallResult) -> tuple[list[Item], list[Item]]:
        """Those that are to be stepped, each of another stream, and runs whose records must be looked at one by one.

        What befalls the others is done.
        """
        ready: list[Item] = []
        apart: list[Item] = []
        streams, soon_ms = self.table.streams, self._soon_ms
        for item in items:
            if item.pieces:  # it was begun in an earlier call
                ready.append(item)
                continue
            stream, decoded = streams.get(item.key), item.decoded
            before = place_of(stream) if item.later and stream is not None else None
            if (
                stream is not None
                and not item.skip
                and self._goes_on(item, stream)
                and follow_if_next(stream, decoded, item.record.offset, soon_ms)
            ):
                item.stream = stream
                if before is None:
                    self._cut(item, stream.version.conversion.samples(stream, decoded, 0))
                else:
                    self._take_run(item, stream, before)
                ready.append(item)
            elif item.later:
                apart.append(item)
            elif self._prepare(item, stream, result):
                ready.append(item)
        return ready, apart

    def _goes_on(self, item: Item, stream: Stream) -> bool:
        """Whether a stream's version can take its next item as it is."""
        if len(item.later) >= stream.version.records_per_run:
            return False
        if stream.version is self.versions.current:
            return True
        last = item.behind().last_offset if item.later else item.record.offset
        return not self.versions.changes(item.key, stream, last)

    def _take_run(self, item: Item, stream: Stream, before: Place) -> None:
        put(stream, item.behind())
        item.before = before
        item.pieces = [stream.version.conversion.run(stream, item.samples())]

    def _prepare(self, item: Item, stream: Stream | None, result: CallResult) -> bool:
        """Judge a record that needs care and cut its samples; false when nothing is to be stepped."""
        key, record, decoded = item.key, item.record, item.decoded
        position = self.table.position(key) if stream is None else stream.position
        if record.offset < position or (stream is None and decoded.eos and not len(decoded.samples)):
            # a re-run meets what the restored state already contains, or an end that nothing stands before
            result[record.partition].finished.append(record.offset)
            return False
        if item.skip:
            self._life.pass_over(key, item, result)
            return False
        if stream is None:
            return self._admit(item, result)
        verdict = judge(stream, decoded, self._options)
        if verdict.ends:
            self._life.end(key, stream, verdict.ends, result, before=record.offset)
            return self._admit(item, result)
        if verdict.refused or verdict.dropped:
            if verdict.refused:
                stream.version.outbox.refuse(result, record, verdict.refused)
            stream.position = record.offset + 1
            result[record.partition].finished.append(record.offset)
            return False
        if self.versions.changes(key, stream, record.offset):
            return self._change_version(item, stream, verdict, result)
        item.decided = verdict is not STEP and self._life.interrupt(key, stream, item, verdict, result)
        self._take(item, stream, verdict)
        return True

    def _change_version(self, item: Item, stream: Stream, verdict: Verdict, result: CallResult) -> bool:
        """The record is the first that the stream's next version steps."""
        if not self._life.change_version(item.key, stream, item.record, result):
            reason = "another version of the model cannot go on with it"
            self._life.end(item.key, stream, reason, result, before=item.record.offset)
            return self._admit(item, result)
        if verdict is not STEP:
            self._life.interrupt(item.key, stream, item, verdict, result)
        item.decided = True
        self._take(item, stream, verdict)
        return True

    def _admit(self, item: Item, result: CallResult) -> bool:
        """A stream begins with this record, unless there is no room for it."""
        key, record = item.key, item.record
        mark = self.table.marks.get(key)
        session = item.decoded.session
        if mark is not None and session is not None and session in mark.sessions[:-1]:
            self.outbox.refuse(result, record, f"session {session!r} was already replaced")
            result[record.partition].finished.append(record.offset)
            return False
        if not self._life.admits(key, record, self._busy, result):
            return False
        self._take(item, self._life.open(key, item, result), STEP)
        return True

    def _take(self, item: Item, stream: Stream, verdict: Verdict) -> None:
        item.stream = stream
        self._cut(item, stream.version.conversion.samples(stream, item.decoded, verdict.filled))
        follow(stream, item.decoded, item.record.offset, verdict.gap)

    def _cut(self, item: Item, samples: Samples) -> None:
        piece = item.stream.version.piece
        if len(samples) <= piece:
            item.pieces = [samples] if len(samples) else []
        else:
            item.pieces = [samples[i : i + piece] for i in range(0, len(samples), piece)]

    def _step_items(self, items: list[Item], result: CallResult) -> list[Item]:
        """Step all pieces of the records, one piece of each at a time, then close the records.

        In deterministic mode, whose batches cost the same however few rows are in them, a call steps one piece: the
        others share a later call with other streams. Returns the runs that could not be stepped as one; their streams
        stand before them again.
        """
        for item in items:
            if len(item.pieces) > 1 and item.count is None:
                item.count = Counter()
        active = [item for item in items if item.pieces]
        apart: list[Item] = []
        while active:
            for version, mine in self._by_version(active):
                size = version.engine.max_batch
                for start in range(0, len(mine), size):
                    apart += self._step_batch(version, mine[start : start + size], result)
            active = [item for item in active if item.pieces]
            if self._one_piece:
                break
        for item in active:
            item.stream.begun = True
        result.begun += active
        self._close([item for item in items if not item.pieces and item not in apart], result)
        return apart

    def _by_version(self, items: list[Item]) -> list[tuple[Version, list[Item]]]:
        """The items of each version that has some."""
        if len(self.versions) == 1:
            return [(self.versions.current, items)]
        sorted_out = [(v, [item for item in items if item.stream.version is v]) for v in self.versions]
        return [(version, mine) for version, mine in sorted_out if mine]

    def _step_batch(self, version: Version, items: list[Item], result: CallResult) -> list[Item]:
        """One piece of every record through the network and the task. Returns runs that went wrong."""
        version.residence.bring([(item.key, item.stream) for item in items])
        chunks = [item.pieces.pop(0) for item in items]
        step = version.engine.step(np.array([item.stream.slot for item in items], np.int64), chunks)
        outputs, lengths = step.outputs, step.lengths
        apart: list[Item] = []
        if step.failed:
            apart = [items[row] for row, reason in step.failed.items() if self._fail(items[row], reason, result)]
            kept = [i for i in range(len(items)) if i not in step.failed]
            if not kept:
                return apart
            items, chunks = [items[i] for i in kept], [chunks[i] for i in kept]
            outputs, lengths = {name: leaf[kept] for name, leaf in outputs.items()}, lengths[kept]
        for rows in rows_of(items, chunks, outputs, lengths):
            self._say(version, rows, result)
        for item, chunk in zip(items, chunks, strict=True):
            item.stream.clock_samples += len(chunk)
        return apart

    def _say(self, version: Version, rows: Rows, result: CallResult) -> None:
        """What the network gave of every row through the task; what that says goes to the outbox."""
        task, outbox = version.task, version.outbox
        plain = rows.plain(task, outbox.passed) if isinstance(task, PlainTask) else None
        if plain is not None and outbox.say_plain(result, plain):
            return
        batch, owners, records = rows.one_by_one()
        states, said = task.advance(batch)
        spoken: list[tuple[Output, Record]] = []
        for item, record, state, messages in zip(owners, records, states, said, strict=True):
            item.stream.task = state
            for message in messages if item.count is None else numbered(item.count, messages):
                spoken.append((message, record))
                if message.decision:
                    item.decided = True
        if spoken:
            outbox.say_all(result, spoken)

    def _fail(self, item: Item, reason: str, result: CallResult) -> bool:
        """A row went wrong: its record goes to the dead letters and its stream begins afresh; nobody else notices.

        Of a run nobody knows which record it was: nothing was written, and true says that they must go one by one.
        """
        if item.before is not None:
            put(item.stream, item.before)
            return True
        item.pieces.clear()
        item.stream.version.outbox.refuse(result, item.record, reason)
        self._life.reset(item.key, item.stream, item.record, reason, 0, result, failed=True)
        item.decided = True
        return False

    def _close(self, items: Sequence[Item], result: CallResult) -> None:
        """The records are stepped whole: end what ends, save what decided."""
        decided: list[StreamKey] = []
        for item in items:
            key, offset = item.key, item.record.offset
            item.stream.begun = False
            part = result[key.partition]
            part.finished += item.offsets()
            if item.decoded.eos:
                self._life.end(key, item.stream, "the source said so", result)
            else:
                part.stepped.append((key.id, offset))  # of a run its first: no copy is true for a place inside it
                if item.decided:
                    decided.append(key)
        if decided:
            result.add_copies(self.table.copies(decided))
