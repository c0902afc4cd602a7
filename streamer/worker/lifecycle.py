"""What befalls streams beside being stepped: they start, are reset, end, are refused or passed over."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from streamer.errors import StateMismatch
from streamer.options import StreamOptions
from streamer.records import Record
from streamer.worker.item import Item
from streamer.worker.outbox import renamed
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.snapshot import Mark
from streamer.worker.stream import Stream, Verdict, ended_sessions, follow, open_stream
from streamer.worker.table import StreamTable
from streamer.worker.version import Versions, handed_over
from streamer.worker.waking import Waking


class Lifecycle:
    """Changes of the table with what must be said of them."""

    def __init__(
        self, table: StreamTable, versions: Versions, waking: Waking, options: StreamOptions, topic: str
    ) -> None:
        self._table = table
        self._waking = waking
        self._versions = versions
        self._options = options
        self._topic = topic

    def open(self, key: StreamKey, item: Item, result: CallResult) -> Stream:
        """A new stream begins with `item`; it remembers the sessions that are over."""
        record, decoded = item.record, item.decoded
        version = self._versions.beginning(record.partition, record.offset)
        stream = open_stream(decoded, record.key, record.partition, record.offset, version.task.initial(0))
        stream.version = version
        if (mark := self._table.marks.pop(key, None)) is not None:
            stream.replaced = tuple(s for s in mark.sessions if s != decoded.session)
            result[key.partition].stepped.append((key.id, record.offset))  # the mark is needed until a state is saved
        self._table.streams[key] = stream
        version.outbox.event(result, stream, record, "started", decoded.time_ms)
        return stream

    def change_version(self, key: StreamKey, stream: Stream, record: Record, result: CallResult) -> bool:
        """A stream goes on in the current version from `record` on; the stream's clock and numbering go on too.

        False: the new version's task cannot take over from the old one's, nothing was done.
        """
        old, new = stream.version, self._versions.current
        try:
            fresh = handed_over(new, stream, old.task.dump(old.task.restart(stream)))
        except StateMismatch:
            return False
        old.outbox.say(result, record, renamed(old.task.finish(stream), "change"))
        warmed = self._versions.stand_in(key, stream)
        old.residence.leave(key, stream)
        stream.version, stream.resampler, stream.held = new, None, None
        stream.clock_samples = new.samples(stream.clock_samples, old.rate_hz)
        stream.task = fresh
        if warmed is not None:
            new.residence.hand_over(key, warmed, stream)
            stream.task, stream.resampler, stream.held = warmed.task, warmed.resampler, warmed.held
        reason = f"{old.model} -> {new.model}"
        new.outbox.event(result, stream, record, "model_changed", record.timestamp_ms, reason=reason)
        return True

    def interrupt(self, key: StreamKey, stream: Stream, item: Item, verdict: Verdict, result: CallResult) -> bool:
        """Say that samples are missing before a record, or that the state begins afresh; true for the latter."""
        record, decoded = item.record, item.decoded
        if verdict.gap:
            how = "filled" if verdict.filled else verdict.resets
            stream.version.outbox.event(result, stream, record, "gap", decoded.time_ms, reason=how, samples=verdict.gap)
        if not verdict.resets:
            return False
        self.reset(key, stream, record, verdict.resets, stream.version.samples(verdict.gap, stream.rate_hz), result)
        stream.rate_hz = decoded.rate_hz
        return True

    def reset(
        self,
        key: StreamKey,
        stream: Stream,
        record: Record,
        reason: str,
        lost_samples: int,
        result: CallResult,
        *,
        failed: bool = False,
    ) -> None:
        """Recurrent state, front end and decoder begin afresh; the stream's clock and numbering go on."""
        version = stream.version
        last_words = renamed(version.task.finish(stream), "failure" if failed else "reset")
        version.outbox.say(result, record, last_words)
        stream.clock_samples += lost_samples
        stream.task = version.task.restart(stream)
        stream.resampler = stream.held = None
        version.residence.leave(key, stream)
        version.outbox.event(result, stream, record, "reset", record.timestamp_ms, n=int(failed), reason=reason)

    def end(
        self, key: StreamKey, stream: Stream, reason: str, result: CallResult, *, before: int | None = None
    ) -> None:
        """Say what is left to say, announce the end under the last record's id, and leave a mark.

        before: the offset of the record that ends it and begins another; the mark stands there, so that it stays until
        that one's state is saved. Records that were refused or dropped may have moved the position beyond the last one
        stepped: what is said here waits for it, so that N never lies between a decision and its mark (rule 2).
        """
        part = result[stream.partition]
        position = stream.position if before is None else before
        said_before = len(part.outputs)
        last = Record(self._topic, stream.partition, stream.last_offset, stream.last_ms, stream.key, None, ())
        version = stream.version
        version.outbox.say(result, last, renamed(version.task.finish(stream), "end"))
        version.outbox.event(result, stream, last, "ended", stream.last_ms, reason=reason)
        part.outputs[said_before:] = [replace(said, offset=position - 1) for said in part.outputs[said_before:]]
        self._table.remove(key)
        part.copies.append(self._table.leave_mark(key, Mark(position, ended_sessions(stream))))

    def pass_over(self, key: StreamKey, item: Item, result: CallResult) -> None:
        """Skip to live: the record is not fed; what it would have said is a marked gap and a reset."""
        record, decoded, reason = item.record, item.decoded, item.skip
        stream = self._table.streams.get(key)
        if stream is None:
            self._settle_without_state(key, record, result)
        else:
            count = len(decoded.samples)
            stream.version.outbox.event(result, stream, record, "gap", decoded.time_ms, reason=reason, samples=count)
            self.reset(key, stream, record, reason, stream.version.samples(count, stream.rate_hz), result)
            follow(stream, decoded, record.offset, 0)
            if decoded.eos:
                self.end(key, stream, "the source said so", result)
            else:
                result.add_copies(self._table.copies([key]))
        result[record.partition].finished.append(record.offset)

    def admits(self, key: StreamKey, record: Record, busy: Sequence[StreamKey], result: CallResult) -> bool:
        """Whether a new stream may live: there is room, or the policy makes some. Otherwise its record is refused.

        busy: streams of the call at hand, which cannot be ended for it.
        """
        full = self._full()
        if not full:
            return True
        if self._options.at_max == "end_coldest":
            coldest = self._table.coldest(busy)
            if coldest is not None:
                self._waking.wake([coldest], result)
                if (stream := self._table.streams.get(coldest)) is not None:  # else it was given up: there is room
                    self.end(coldest, stream, f"the coldest, ended for {key.id}: {full}", result)
                return True
        self._versions.current.outbox.refuse(result, record, full)
        self._settle_without_state(key, record, result)
        result[record.partition].finished.append(record.offset)
        return False

    def _full(self) -> str:
        """Which limit holds a new stream off, or empty."""
        if len(self._table) >= self._options.max_streams:
            return f"{len(self._table)} streams live already (max_streams)"
        if self._table.host_bytes >= self._options.max_host_bytes:
            return f"spilled states fill {self._options.max_host_bytes} bytes of host memory (max_host_bytes)"
        return ""

    def _settle_without_state(self, key: StreamKey, record: Record, result: CallResult) -> None:
        """A record that no state took in needs a mark, lest a re-run feed it after all (rule 5)."""
        before = self._table.marks.get(key)
        mark = Mark(record.offset + 1, before.sessions if before else ())
        result[key.partition].copies.append(self._table.leave_mark(key, mark))
