"""The stepper: everything that happens to streams, on the engine's thread, one record of a stream after the other.

Front end, network and task of one record advance together. The stepper knows streams and records; it neither reads
nor commits: what a call did goes back as one `CallResult`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamer.codecs.base import Decoded, Samples
from streamer.codecs.messages import Encoder, Output, StreamEvent, iso_time, role_of
from streamer.codecs.resample import Resampler, ResamplerState
from streamer.errors import StateMismatch
from streamer.options import PipelineOptions
from streamer.records import Record
from streamer.tasks.base import Task, TaskBatch
from streamer.worker import snapshot
from streamer.worker.dead_letters import DeadLetters
from streamer.worker.engine import Engine
from streamer.worker.residence import Residence
from streamer.worker.results import CallResult, Copy, Pending, StreamKey
from streamer.worker.snapshot import Snapshot
from streamer.worker.stream import STEP, Stream, Verdict, follow, judge, open_stream, succeed

PIECES_OF_CHUNKS = 4
"""A long record is stepped in pieces of at most this many preferred chunks (deterministic mode: one)."""
EVENTS_PER_PIECE = 64


class Item(NamedTuple):
    """A decoded record on its way. `skip` is why it is passed over on purpose (skip to live), or empty."""

    record: Record
    decoded: Decoded
    skip: str = ""


class Job:
    """One record being stepped: its samples are cut into pieces, its messages numbered within their kinds."""

    __slots__ = ("count", "decided", "item", "key", "pieces", "stream")

    def __init__(self, key: StreamKey, stream: Stream, item: Item, pieces: list[Samples]) -> None:
        self.key = key
        self.stream = stream
        self.item = item
        self.pieces = pieces
        self.count: Counter[str] | None = Counter() if len(pieces) > 1 else None
        self.decided = False


class Stepper:
    """Owns the live streams of one pipeline. Used by one thread only."""

    def __init__(
        self, engine: Engine, task: Task, options: PipelineOptions, encoder: Encoder, dead: DeadLetters, model: str
    ) -> None:
        self.engine = engine
        self.task = task
        self.options = options
        self.model = model
        self.streams: dict[StreamKey, Stream] = {}
        self.marks: dict[StreamKey, int] = {}
        self._residence: Residence[StreamKey] = Residence(engine.pool)
        self._encoder = encoder
        self._dead = dead
        self._passed = frozenset(options.outputs.pass_headers)
        self._resamplers: dict[int, Resampler] = {}
        signature = engine.signature
        self._rate_hz = signature.rate_hz
        pieces = 1 if options.engine.deterministic else PIECES_OF_CHUNKS
        self._piece = signature.chunk_samples * pieces if signature.rate_hz else EVENTS_PER_PIECE

    # ------------------------------------------------------------------ stepping

    def run(self, call: Sequence[tuple[StreamKey, Sequence[Item]]]) -> CallResult:
        """Step every stream of the call through its items. Raises DeviceLost; nothing may be committed then."""
        result = CallResult()
        for rank in range(max(len(items) for _, items in call)):
            jobs = []
            for key, items in call:
                if rank < len(items) and (job := self._prepare(key, items[rank], result)) is not None:
                    jobs.append(job)
            if jobs:
                self._step_jobs(jobs, result)
        return result

    def _prepare(self, key: StreamKey, item: Item, result: CallResult) -> Job | None:
        """Judge a record and cut its samples; None when nothing is to be stepped."""
        record, decoded, _ = item
        stream = self.streams.get(key)
        position = stream.position if stream is not None else self.marks.get(key, 0)
        if record.offset < position:  # a re-run meets what the restored state already contains
            result.finished.append((record.partition, record.offset))
            return None
        if item.skip:
            self._pass_over(key, stream, item, result)
            return None
        verdict = STEP if stream is None else judge(stream, decoded, self.options.streams)
        if verdict.refused:
            self._refuse(stream, record, verdict.refused, result)
            return None
        if verdict.dropped:
            if stream is not None:
                stream.position = record.offset + 1
            result.finished.append((record.partition, record.offset))
            return None
        return self._admit(key, stream, item, verdict, result)

    def _admit(
        self, key: StreamKey, stream: Stream | None, item: Item, verdict: Verdict, result: CallResult
    ) -> Job | None:
        record, decoded, _ = item
        job_decided = False
        if stream is not None and verdict.ends:
            self._end(key, stream, verdict.ends, result)
            old, stream, job_decided = stream, None, True
        else:
            old = None
        if stream is None:
            if len(self.streams) >= self.options.streams.max_streams and not self._make_room(key, result):
                self._refuse_stream(key, record, result)
                return None
            stream = self._open(key, item, old, result)
        elif verdict.gap or verdict.resets:
            job_decided = self._mark(key, stream, item, verdict, result)
        samples = self._samples(stream, decoded, verdict.filled)
        follow(stream, decoded, record.offset, verdict.gap)
        job = Job(key, stream, item, self._cut(samples))
        job.decided = job_decided
        return job

    def _samples(self, stream: Stream, decoded: Decoded, filled: int) -> Samples:
        """The record's samples at the model's rate, with `filled` lost ones before them."""
        samples = decoded.samples
        if not self._rate_hz:
            return self._hold(stream, _with_missing(samples, filled))
        if filled:
            samples = np.concatenate([np.zeros((filled, samples.shape[1]), np.float32), samples])
        if stream.rate_hz == self._rate_hz:
            return samples
        resampler = self._resampler(stream.rate_hz)
        state = resampler.init_state() if stream.resampler is None else stream.resampler
        stream.resampler, out = resampler.step(state, samples[:, 0])
        if decoded.eos:
            stream.resampler, tail = resampler.flush(stream.resampler)
            out = np.concatenate([out, tail])
        return out[:, None]

    def _hold(self, stream: Stream, samples: Samples) -> Samples:
        """With `missing: hold` a missing value repeats the column's last one."""
        if self.options.input.missing != "hold":
            return samples
        rows = samples.copy()
        last = np.zeros(rows.shape[1], np.float32) if stream.held is None else stream.held
        for row in rows:
            missing = np.isnan(row)
            row[missing] = last[missing]
            last = row
        stream.held = last.copy()
        return rows

    def _resampler(self, rate_hz: int) -> Resampler:
        if rate_hz not in self._resamplers:
            self._resamplers[rate_hz] = Resampler(rate_hz, self._rate_hz)
        return self._resamplers[rate_hz]

    def _cut(self, samples: Samples) -> list[Samples]:
        if len(samples) <= self._piece:
            return [samples] if len(samples) else []
        return [samples[i : i + self._piece] for i in range(0, len(samples), self._piece)]

    def _step_jobs(self, jobs: list[Job], result: CallResult) -> None:
        """Step all pieces of the jobs, one piece of every job at a time, then close the records."""
        active = [job for job in jobs if job.pieces]
        while active:
            for start in range(0, len(active), self.engine.max_batch):
                self._step_batch(active[start : start + self.engine.max_batch], result)
            active = [job for job in active if job.pieces]
        self._close(jobs, result)

    def _step_batch(self, jobs: list[Job], result: CallResult) -> None:
        self._residence.bring([(job.key, job.stream) for job in jobs])
        chunks = [job.pieces.pop(0) for job in jobs]
        slots = np.fromiter((job.stream.slot for job in jobs), np.int64, len(jobs))
        step = self.engine.step(slots, chunks)
        good = range(len(jobs))
        outputs, lengths = step.outputs, step.lengths
        if step.failed:
            for row, reason in step.failed.items():
                self._fail(jobs[row], reason, result)
            kept = np.array([i for i in good if i not in step.failed], np.int64)
            jobs, chunks = [jobs[i] for i in kept], [chunks[i] for i in kept]
            outputs, lengths = {n: a[kept] for n, a in outputs.items()}, lengths[kept]
        if not jobs:
            return
        batch = TaskBatch(
            [job.stream for job in jobs],
            [job.item.record.offset for job in jobs],
            [job.item.decoded.time_ms for job in jobs],
            chunks,
            outputs,
            lengths,
        )
        states, said = self.task.advance(batch)
        for job, chunk, state, messages in zip(jobs, chunks, states, said, strict=True):
            job.stream.task = state
            job.stream.clock_samples += len(chunk)
            if messages:
                self._say(job, messages, result)

    def _say(self, job: Job, messages: Iterable[Output], result: CallResult) -> None:
        record = job.item.record
        passed = self._passed_on(record)
        for message in messages:
            if job.count is not None:
                message = _number(job.count, message)
            job.decided |= message.decision
            result.outputs.append(
                Pending(
                    record.partition,
                    record.offset,
                    role_of(message.body),
                    self._encoder.encode(message, record, passed),
                    message.decision,
                )
            )

    def _passed_on(self, record: Record) -> tuple[tuple[str, bytes], ...]:
        if not record.headers:
            return ()
        return tuple((name, value) for name, value in record.headers if name in self._passed)

    def _close(self, jobs: list[Job], result: CallResult) -> None:
        """The records are stepped whole: end what ends, save what decided."""
        decided: list[Job] = []
        for job in jobs:
            record = job.item.record
            result.finished.append((record.partition, record.offset))
            if job.item.decoded.eos and self.streams.get(job.key) is job.stream:
                self._end(job.key, job.stream, "the source said so", result)
                continue
            result.stepped.append((job.key, record.offset))
            if job.decided and self.streams.get(job.key) is job.stream:
                decided.append(job)
        if decided:
            result.copies += self.copies([job.key for job in decided])

    # ------------------------------------------------------------------ what befalls streams

    def _open(self, key: StreamKey, item: Item, old: Stream | None, result: CallResult) -> Stream:
        record, decoded, _ = item
        stream = open_stream(decoded, record.key, record.partition, record.offset, self.task.initial(0))
        if old is not None:
            succeed(old, stream)
        self.streams[key] = stream
        self.marks.pop(key, None)
        self._event(stream, record, "started", decoded.time_ms, result, decision=False)
        return stream

    def _mark(self, key: StreamKey, stream: Stream, item: Item, verdict: Verdict, result: CallResult) -> bool:
        """Publish a gap or a reset before the record; true when the state began afresh."""
        record, decoded, _ = item
        if verdict.gap:
            how = "filled" if verdict.filled else verdict.resets
            self._event(stream, record, "gap", decoded.time_ms, result, samples=verdict.gap, reason=how, decision=False)
        if not verdict.resets:
            return False
        lost = verdict.gap * self._rate_hz // stream.rate_hz if stream.rate_hz else verdict.gap
        self._reset(key, stream, record, verdict.resets, lost, result)
        stream.rate_hz = decoded.rate_hz
        return True

    def _reset(
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
        self._publish(stream, record, _renamed(self.task.finish(stream), "failure" if failed else "reset"), result)
        stream.clock_samples += lost_samples
        stream.task = self.task.restart(stream)
        stream.resampler = stream.held = None
        self._residence.leave(key, stream)
        time_ms = record.timestamp_ms
        self._event(stream, record, "reset", time_ms, result, n=int(failed), reason=reason, decision=True)

    def _end(self, key: StreamKey, stream: Stream, reason: str, result: CallResult) -> None:
        """Say what is left to say, announce the end under the last record's id, and leave a mark."""
        last = self._last_record(stream)
        self._publish(stream, last, _renamed(self.task.finish(stream), "end"), result)
        self._event(stream, last, "ended", stream.last_ms, result, reason=reason, decision=True)
        self._residence.leave(key, stream)
        del self.streams[key]
        self._leave_mark(key, stream.key, stream.position, result)

    def end_idle(self, key: StreamKey, reason: str) -> CallResult:
        """End a stream early, by the wall clock (DESIGN.md rule 6)."""
        result = CallResult()
        if (stream := self.streams.get(key)) is not None:
            self._end(key, stream, reason, result)
        return result

    def _leave_mark(self, key: StreamKey, record_key: bytes | None, position: int, result: CallResult) -> None:
        self.marks[key] = position
        data = snapshot.dump_mark(position, self.model)
        result.copies.append(Copy(key, state_key(key), position, data, False))

    def idle_since(self, time_ms: int, partition: int) -> list[StreamKey]:
        """Streams of a partition whose last record is older than this."""
        return [k for k, s in self.streams.items() if k.partition == partition and s.last_ms < time_ms]

    def forget_marks(self, keys: Iterable[StreamKey]) -> None:
        """Marks that became tombstones are needed no more."""
        for key in keys:
            self.marks.pop(key, None)

    def _last_record(self, stream: Stream) -> Record:
        topic = self.options.input.topic
        return Record(topic, stream.partition, stream.last_offset, stream.last_ms, stream.key, None, ())

    def _pass_over(self, key: StreamKey, stream: Stream | None, item: Item, result: CallResult) -> None:
        """Skip to live: the record is not fed; what it would have said is a marked gap and a reset."""
        record, decoded, reason = item
        if stream is not None:
            count = len(decoded.samples)
            self._event(stream, record, "gap", decoded.time_ms, result, samples=count, reason=reason, decision=True)
            lost = count * self._rate_hz // stream.rate_hz if stream.rate_hz else count
            self._reset(key, stream, record, reason, lost, result)
            follow(stream, decoded, record.offset, 0)
            result.copies += self.copies([key])
        else:
            self._leave_mark(key, record.key, record.offset + 1, result)
        result.finished.append((record.partition, record.offset))

    def _make_room(self, wanted: StreamKey, result: CallResult) -> bool:
        """At `max_streams`: end the coldest stream where the policy says so."""
        if self.options.streams.at_max == "refuse":
            return False
        key = min(self.streams, key=lambda k: self.streams[k].last_ms)
        self._end(key, self.streams[key], f"coldest of {len(self.streams)} streams, room for {wanted.id}", result)
        return True

    def _refuse_stream(self, key: StreamKey, record: Record, result: CallResult) -> None:
        limit = self.options.streams.max_streams
        self._refuse(None, record, f"{limit} streams live already (max_streams)", result)
        self._leave_mark(key, record.key, record.offset + 1, result)

    def _refuse(self, stream: Stream | None, record: Record, reason: str, result: CallResult) -> None:
        letter = self._dead.of(record, reason)
        result.outputs.append(Pending(record.partition, record.offset, "deadletters", letter, False))
        result.finished.append((record.partition, record.offset))
        if stream is not None:
            stream.position = record.offset + 1

    def _fail(self, job: Job, reason: str, result: CallResult) -> None:
        """A row went wrong: its record goes to the dead letters and its stream begins afresh; nobody else notices."""
        job.pieces.clear()
        record = job.item.record
        result.outputs.append(
            Pending(record.partition, record.offset, "deadletters", self._dead.of(record, reason), False)
        )
        self._reset(job.key, job.stream, record, reason, 0, result, failed=True)
        job.decided = True

    def _event(
        self,
        stream: Stream,
        record: Record,
        event: Any,
        time_ms: int,
        result: CallResult,
        *,
        decision: bool,
        n: int = 0,
        reason: str = "",
        samples: int = 0,
    ) -> None:
        body = StreamEvent(stream=stream.id, event=event, time=iso_time(time_ms), reason=reason, samples=samples)
        self._publish(stream, record, [Output(body, stream.key or b"", event, n, time_ms, decision)], result)

    def _publish(self, stream: Stream, record: Record, messages: Iterable[Output], result: CallResult) -> None:
        passed = self._passed_on(record)
        for message in messages:
            encoded = self._encoder.encode(message, record, passed)
            role = role_of(message.body)
            result.outputs.append(Pending(stream.partition, record.offset, role, encoded, message.decision))

    # ------------------------------------------------------------------ saving and restoring

    def copies(self, keys: Iterable[StreamKey]) -> list[Copy]:
        """The whole state of streams as of now, taken off the device in one copy; unknown ones are passed over."""
        live = [(key, self.streams[key]) for key in keys if key in self.streams]
        states = self._residence.states([stream for _, stream in live])
        return [
            Copy(key, state_key(key), stream.position, self._dump(stream, leaves), True)
            for (key, stream), leaves in zip(live, states, strict=True)
        ]

    def _dump(self, stream: Stream, leaves: Any) -> bytes:
        resampler = None if stream.resampler is None else stream.resampler.to_arrays()
        return snapshot.dump(stream, leaves, self.task.dump(stream.task), resampler, self.model)

    def restore(self, partition: int, key: bytes, data: bytes) -> Snapshot:
        """Take in a saved state. Raises StateMismatch."""
        restored, task, resampler = snapshot.load(data, self.model, self.engine.pool.layout())
        identity = StreamKey(partition, key.decode())
        if restored.stream is None:
            self.marks[identity] = restored.position
            return restored
        if restored.stream.partition != partition or restored.stream.id != identity.id:
            raise StateMismatch(f"saved state of {restored.stream.id!r} lies under the key {identity.id!r}")
        restored.stream.task = self.task.load(task)
        if resampler is not None:
            restored.stream.resampler = ResamplerState.from_arrays(resampler)
        self.streams[identity] = restored.stream
        return restored

    def drop_all(self) -> None:
        """Forget every stream: another owner may have gone on with them."""
        self.drop_partitions(frozenset(k.partition for k in (*self.streams, *self.marks)))

    def drop_partitions(self, partitions: frozenset[int]) -> None:
        """Forget every stream of partitions that were lost."""
        for key in [k for k in self.streams if k.partition in partitions]:
            self._residence.leave(key, self.streams.pop(key))
        self.marks = {k: p for k, p in self.marks.items() if k.partition not in partitions}


def state_key(key: StreamKey) -> bytes:
    """The changelog key of a stream."""
    return key.id.encode()


def _renamed(messages: Iterable[Output], why: str) -> list[Output]:
    """What is said on leaving has kinds of its own: the same record may have said the same kind while stepping."""
    return [m._replace(kind=f"{m.kind}-at-{why}") for m in messages]


def _number(count: Counter[str], message: Output) -> Output:
    """`n` counts within a kind over all pieces of a record."""
    n = count[message.kind]
    count[message.kind] += 1
    return message if message.n == n else message._replace(n=n)


def _with_missing(samples: Samples, count: int) -> Samples:
    if not count:
        return samples
    return np.concatenate([np.full((count, samples.shape[1]), np.nan, np.float32), samples])
