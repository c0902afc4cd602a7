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
from streamer.tasks.base import Task, TaskBatch
from streamer.worker.conversion import Conversion
from streamer.worker.engine import Engine
from streamer.worker.item import Item
from streamer.worker.lifecycle import Lifecycle
from streamer.worker.outbox import Outbox, numbered
from streamer.worker.results import CallResult, StreamKey
from streamer.worker.stream import STEP, Stream, Verdict, follow, judge
from streamer.worker.table import StreamTable

PIECES_OF_CHUNKS = 4
"""A long record is stepped in pieces of at most this many preferred chunks (deterministic mode: one)."""
EVENTS_PER_PIECE = 64


class Job:
    """One record being stepped: its samples are cut into pieces, its messages numbered within their kinds.

    decided: whether a decision was published with it, so that the stream is saved in the same commit.
    """

    __slots__ = ("count", "decided", "item", "key", "pieces", "stream")

    def __init__(self, key: StreamKey, stream: Stream, item: Item, pieces: list[Samples], decided: bool) -> None:
        self.key = key
        self.stream = stream
        self.item = item
        self.pieces = pieces
        self.count: Counter[str] | None = Counter() if len(pieces) > 1 else None
        self.decided = decided


class Stepper:
    """Steps the streams of one pipeline. Used by one thread only."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        options: PipelineOptions,
        outbox: Outbox,
        model: str,
        *,
        tail_samples: int = 0,
    ) -> None:
        """tail_samples: silence that a stream's end is stepped with (see `Conversion`)."""
        self.engine = engine
        self.task = task
        self.outbox = outbox
        self.table = StreamTable(engine.pool, task, model)
        self.rate_hz = engine.signature.rate_hz
        self._options = options.streams
        hold = options.input.missing == "hold" or not engine.signature.missing
        self._conversion = Conversion(self.rate_hz, hold=hold, tail_samples=tail_samples)
        self._life = Lifecycle(self.table, task, outbox, options.streams, options.input.topic, self.rate_hz)
        pieces = 1 if options.engine.deterministic else PIECES_OF_CHUNKS
        self._piece = engine.signature.chunk_samples * pieces if self.rate_hz else EVENTS_PER_PIECE

    def run(self, call: Sequence[tuple[StreamKey, Sequence[Item]]]) -> CallResult:
        """Step every stream of the call through its items. Raises DeviceLost; nothing may be committed then."""
        result = CallResult()
        busy = frozenset(key for key, _ in call)
        for rank in range(max(len(items) for _, items in call)):
            jobs = []
            for key, items in call:
                if rank < len(items) and (job := self._prepare(key, items[rank], busy, result)) is not None:
                    jobs.append(job)
            if jobs:
                self._step_jobs(jobs, result)
        return result

    def end_idle(self, key: StreamKey, reason: str) -> CallResult:
        """End a stream early, by the wall clock (DESIGN.md rule 6)."""
        result = CallResult()
        if (stream := self.table.streams.get(key)) is not None:
            self._life.end(key, stream, reason, result)
        return result

    def _prepare(self, key: StreamKey, item: Item, busy: frozenset[StreamKey], result: CallResult) -> Job | None:
        """Judge a record and cut its samples; None when nothing is to be stepped."""
        record, decoded, skip = item
        stream = self.table.streams.get(key)
        position = self.table.position(key) if stream is None else stream.position
        if record.offset < position or (stream is None and decoded.eos and not len(decoded.samples)):
            # a re-run meets what the restored state already contains, or an end that nothing stands before
            result.finished.append((record.partition, record.offset))
            return None
        if skip:
            self._life.pass_over(key, item, result)
            return None
        if stream is None:
            return self._admit(key, item, busy, result)
        verdict = judge(stream, decoded, self._options)
        if verdict.ends:
            self._life.end(key, stream, verdict.ends, result)
            return self._admit(key, item, busy, result)
        if verdict.refused or verdict.dropped:
            if verdict.refused:
                self.outbox.refuse(result, record, verdict.refused)
            stream.position = record.offset + 1
            result.finished.append((record.partition, record.offset))
            return None
        began = verdict is not STEP and self._life.interrupt(key, stream, item, verdict, result)
        return self._job(key, stream, item, verdict, began)

    def _admit(self, key: StreamKey, item: Item, busy: frozenset[StreamKey], result: CallResult) -> Job | None:
        """A stream begins with this record, unless there is no room for it."""
        mark = self.table.marks.get(key)
        session = item.decoded.session
        if mark is not None and session is not None and session in mark.sessions[:-1]:
            self.outbox.refuse(result, item.record, f"session {session!r} was already replaced")
            result.finished.append((item.record.partition, item.record.offset))
            return None
        if not self._life.admits(key, item.record, busy, result):
            return None
        return self._job(key, self._life.open(key, item, result), item, STEP, False)

    def _job(self, key: StreamKey, stream: Stream, item: Item, verdict: Verdict, decided: bool) -> Job:
        samples = self._conversion.samples(stream, item.decoded, verdict.filled)
        follow(stream, item.decoded, item.record.offset, verdict.gap)
        return Job(key, stream, item, self._cut(samples), decided)

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
        """One piece of every job through the network and the task."""
        self.table.residence.bring([(job.key, job.stream) for job in jobs])
        chunks = [job.pieces.pop(0) for job in jobs]
        slots = np.fromiter((job.stream.slot for job in jobs), np.int64, len(jobs))
        step = self.engine.step(slots, chunks)
        outputs, lengths = step.outputs, step.lengths
        if step.failed:
            for row, reason in step.failed.items():
                self._fail(jobs[row], reason, result)
            kept = np.array([i for i in range(len(jobs)) if i not in step.failed], np.int64)
            jobs, chunks = [jobs[i] for i in kept], [chunks[i] for i in kept]
            if not jobs:
                return
            outputs, lengths = {name: leaf[kept] for name, leaf in outputs.items()}, lengths[kept]
        batch = TaskBatch(
            [job.stream for job in jobs],
            [job.item.record.offset for job in jobs],
            [job.item.decoded.time_ms for job in jobs],
            chunks,
            outputs,
            lengths,
        )
        states, said = self.task.advance(batch)
        spoken: list[tuple[Output, Record]] = []
        for job, chunk, state, messages in zip(jobs, chunks, states, said, strict=True):
            stream, record = job.stream, job.item.record
            stream.task = state
            stream.clock_samples += len(chunk)
            for message in messages if job.count is None else numbered(job.count, messages):
                spoken.append((message, record))
                job.decided = job.decided or message.decision
        if spoken:
            self.outbox.say_all(result, spoken)

    def _fail(self, job: Job, reason: str, result: CallResult) -> None:
        """A row went wrong: its record goes to the dead letters and its stream begins afresh; nobody else notices."""
        job.pieces.clear()
        self.outbox.refuse(result, job.item.record, reason)
        self._life.reset(job.key, job.stream, job.item.record, reason, 0, result, failed=True)
        job.decided = True

    def _close(self, jobs: list[Job], result: CallResult) -> None:
        """The records are stepped whole: end what ends, save what decided."""
        for job in jobs:
            record = job.item.record
            result.finished.append((record.partition, record.offset))
            if job.item.decoded.eos:
                self._life.end(job.key, job.stream, "the source said so", result)
            else:
                result.stepped.append((job.key, record.offset))
        decided = [job.key for job in jobs if job.decided and not job.item.decoded.eos]
        if decided:
            result.copies += self.table.copies(decided)
