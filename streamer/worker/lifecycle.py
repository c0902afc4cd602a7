"""What befalls streams beside being stepped: they start, are reset, end, are refused or passed over."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from streamer.options import StreamOptions
from streamer.records import Record
from streamer.tasks.base import Task
from streamer.worker.item import Item
from streamer.worker.outbox import Outbox, renamed
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.snapshot import Mark
from streamer.worker.stream import Stream, Verdict, ended_sessions, follow, open_stream
from streamer.worker.table import StreamTable


class Lifecycle:
    """Changes of the table with what must be said of them. rate_hz: the model's sample rate, 0 for events."""

    def __init__(
        self, table: StreamTable, task: Task, outbox: Outbox, options: StreamOptions, topic: str, rate_hz: int
    ) -> None:
        self._table = table
        self._task = task
        self._outbox = outbox
        self._options = options
        self._topic = topic
        self._rate_hz = rate_hz

    def open(self, key: StreamKey, item: Item, result: CallResult) -> Stream:
        """A new stream begins with `item`; it remembers the sessions that are over."""
        record, decoded = item.record, item.decoded
        stream = open_stream(decoded, record.key, record.partition, record.offset, self._task.initial(0))
        if (mark := self._table.marks.pop(key, None)) is not None:
            stream.replaced = tuple(s for s in mark.sessions if s != decoded.session)
        self._table.streams[key] = stream
        self._outbox.event(result, stream, record, "started", decoded.time_ms)
        return stream

    def interrupt(self, key: StreamKey, stream: Stream, item: Item, verdict: Verdict, result: CallResult) -> bool:
        """Say that samples are missing before a record, or that the state begins afresh; true for the latter."""
        record, decoded = item.record, item.decoded
        if verdict.gap:
            how = "filled" if verdict.filled else verdict.resets
            self._outbox.event(result, stream, record, "gap", decoded.time_ms, reason=how, samples=verdict.gap)
        if not verdict.resets:
            return False
        self.reset(key, stream, record, verdict.resets, self._at_model_rate(verdict.gap, stream.rate_hz), result)
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
        last_words = renamed(self._task.finish(stream), "failure" if failed else "reset")
        self._outbox.say(result, record, last_words)
        stream.clock_samples += lost_samples
        stream.task = self._task.restart(stream)
        stream.resampler = stream.held = None
        self._table.residence.leave(key, stream)
        self._outbox.event(result, stream, record, "reset", record.timestamp_ms, n=int(failed), reason=reason)

    def end(self, key: StreamKey, stream: Stream, reason: str, result: CallResult) -> None:
        """Say what is left to say, announce the end under the last record's id, and leave a mark.

        Records that were refused or dropped may have moved the position beyond the last one stepped: what is said
        here waits for it, so that N never lies between a decision and its mark (rule 2).
        """
        part = result[stream.partition]
        before = len(part.outputs)
        last = Record(self._topic, stream.partition, stream.last_offset, stream.last_ms, stream.key, None, ())
        self._outbox.say(result, last, renamed(self._task.finish(stream), "end"))
        self._outbox.event(result, stream, last, "ended", stream.last_ms, reason=reason)
        part.outputs[before:] = [replace(said, offset=stream.position - 1) for said in part.outputs[before:]]
        self._table.remove(key)
        part.copies.append(self._table.leave_mark(key, Mark(stream.position, ended_sessions(stream))))

    def pass_over(self, key: StreamKey, item: Item, result: CallResult) -> None:
        """Skip to live: the record is not fed; what it would have said is a marked gap and a reset."""
        record, decoded, reason = item.record, item.decoded, item.skip
        stream = self._table.streams.get(key)
        if stream is None:
            self._settle_without_state(key, record, result)
        else:
            count = len(decoded.samples)
            self._outbox.event(result, stream, record, "gap", decoded.time_ms, reason=reason, samples=count)
            self.reset(key, stream, record, reason, self._at_model_rate(count, stream.rate_hz), result)
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
            idle = {k for k, stream in self._table.streams.items() if not stream.begun} - set(busy)
            if idle:
                coldest = min(idle, key=lambda k: (self._table.streams[k].last_ms, k))
                self.end(coldest, self._table.streams[coldest], f"the coldest, ended for {key.id}: {full}", result)
                return True
        self._outbox.refuse(result, record, full)
        self._settle_without_state(key, record, result)
        result[record.partition].finished.append(record.offset)
        return False

    def _full(self) -> str:
        """Which limit holds a new stream off, or empty."""
        if len(self._table.streams) >= self._options.max_streams:
            return f"{len(self._table.streams)} streams live already (max_streams)"
        if self._table.residence.spilled_bytes >= self._options.max_host_bytes:
            return f"spilled states fill {self._options.max_host_bytes} bytes of host memory (max_host_bytes)"
        return ""

    def _settle_without_state(self, key: StreamKey, record: Record, result: CallResult) -> None:
        """A record that no state took in needs a mark, lest a re-run feed it after all (rule 5)."""
        before = self._table.marks.get(key)
        mark = Mark(record.offset + 1, before.sessions if before else ())
        result[key.partition].copies.append(self._table.leave_mark(key, mark))

    def _at_model_rate(self, samples: int, rate_hz: int) -> int:
        return samples * self._rate_hz // rate_hz if rate_hz else samples
