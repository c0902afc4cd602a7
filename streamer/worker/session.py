"""One membership in the consumer group: reads, steps and commits until the worker stops or is fenced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TypeVar

from streamer.errors import LogUnavailable
from streamer.log.base import Assigned, Commit, Consumer, ConsumerEvent, Log, Revoked
from streamer.observe.metrics import Metrics
from streamer.options import PipelineOptions
from streamer.records import RecordBatch, TopicPartition
from streamer.worker.batcher import Batcher
from streamer.worker.header import writers
from streamer.worker.intake import Intake
from streamer.worker.item import Item
from streamer.worker.lookout import LOOK_S, Lookout
from streamer.worker.opening import Opening
from streamer.worker.patience import MISSING_S, RETRY_S, patiently
from streamer.worker.progress import Progress
from streamer.worker.recovery import Recovery
from streamer.worker.results import CallResult, PartitionResult, StreamKey
from streamer.worker.rhythm import has_turn, until_commit_s
from streamer.worker.saving import Saving
from streamer.worker.stepper import Stepper
from streamer.worker.warming import Warming

T = TypeVar("T")
logger = logging.getLogger(__name__)
READ_TIMEOUT_S = 0.2
DRAIN_S = 2.0
"""What a revoked or stopping partition may spend on finishing what it began; the rest is the next owner's re-run."""
CHANGE_LOOK_S = 0.1
HEADERS_AT_ONCE, STATES_AT_ONCE = 1024, 32
"""A restore takes the engine's thread for so many at a time: some milliseconds."""


class Session:
    """The worker's loops over one consumer. `run` returns after `stopping` is set and everything is settled."""

    def __init__(
        self,
        log: Log,
        consumer: Consumer,
        stepper: Stepper,
        intake: Intake,
        know: Callable[[str], Awaitable[bool]],
        options: PipelineOptions,
        changelog: str,
        stopping: asyncio.Event,
        metrics: Metrics,
        pipeline: str,
        engine_thread: ThreadPoolExecutor,
        intake_thread: ThreadPoolExecutor,
        begin: Mapping[TopicPartition, int],
    ) -> None:
        self._log = log
        self._consumer = consumer
        self._stepper = stepper
        self._intake = intake
        self._know = know
        self._options = options
        self._opening = Opening(log, consumer, stepper, options, changelog, begin)
        self._stopping = stopping
        self._engine_thread = engine_thread
        self._intake_thread = intake_thread
        one_by_one = options.engine.deterministic or intake.records_per_run > 1  # a run is as much as a call may hold
        chunks = 1 if one_by_one else options.engine.chunks_per_call
        self._batcher: Batcher[StreamKey, Item] = Batcher(max(1, options.engine.max_batch), chunks)
        self._progress: dict[TopicPartition, Progress] = {}
        self._restoring: dict[TopicPartition, asyncio.Task[None]] = {}
        self._warm: dict[TopicPartition, Progress] = {}
        self._revoked_at: dict[TopicPartition, float] = {}
        self._work = asyncio.Event()
        self._applied = asyncio.Event()
        self._warming = Warming(log, stepper, intake, options, self._batcher, self._work, engine_thread, intake_thread)
        self._commit_lock = asyncio.Lock()
        self._paused = False
        commit = options.commit
        self._saving = Saving(commit.snapshot_interval_ms / 1000, commit.snapshot_bytes_per_s)
        self._lookout = Lookout(log, self._opening, stepper, options, self._progress, self._step_streams)
        self._records = metrics.counter("streamer_records_total", pipeline=pipeline)
        self._step_ms = metrics.histogram("streamer_step_ms", pipeline=pipeline)
        self._batch_rows = metrics.histogram("streamer_batch_rows", pipeline=pipeline)
        self._restore_ms = metrics.histogram("streamer_restore_ms", pipeline=pipeline)
        self._recovery = Recovery()
        self._expected_recovery_ms = metrics.gauge("streamer_expected_recovery_ms", pipeline=pipeline)
        self._standby_bytes = metrics.gauge("streamer_standby_bytes", pipeline=pipeline)
        self._pause_ms = metrics.histogram("streamer_pause_ms", pipeline=pipeline)
        self._commit_ms = metrics.histogram("streamer_commit_ms", pipeline=pipeline)
        self._dead_total = metrics.counter("streamer_dead_letters_total", pipeline=pipeline)

    @property
    def partitions(self) -> int:
        """Partitions that are restored and live."""
        return len(self._progress)

    async def run(self) -> None:
        """Serve; errors of any loop end all of them and are raised as a group."""
        await self._lookout.begin()
        async with asyncio.TaskGroup() as loops:
            work = (self._step, self._commit, self._save, self._look, self._change_over)
            helpers = [loops.create_task(f()) for f in work]
            if self._opening.standby is not None:
                helpers.append(loops.create_task(self._opening.standby.run()))
            self._loops = loops
            await self._read()
            await self._leave(frozenset(self._progress))
            await self._forget(frozenset(self._warm))
            for task in (*helpers, *self._restoring.values()):
                task.cancel()

    # ------------------------------------------------------------------ reading

    async def _read(self) -> None:
        away_since: float | None = None
        while not self._stopping.is_set():
            try:
                events = await self._consumer.read(timeout_s=READ_TIMEOUT_S)
                away_since = None
            except LogUnavailable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > self._options.commit.wait_s:
                    raise
                logger.warning("cannot read yet, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self._take(events)
            self._mind_memory()

    async def _take(self, events: Sequence[ConsumerEvent]) -> None:
        """Batches between two barriers go to the intake thread together; barriers keep their place."""
        batches: list[RecordBatch] = []
        for event in events:
            if isinstance(event, RecordBatch):
                batches.append(event)
                continue
            await self._accept(batches)
            batches = []
            if isinstance(event, Assigned):
                await self._forget(frozenset(self._warm.keys() - event.partitions))  # these went to others
                for partition in event.partitions:
                    self._restoring[partition] = self._loops.create_task(self._open(partition))
            else:
                await self._revoke(event)
        await self._accept(batches)

    async def _accept(self, batches: Sequence[RecordBatch]) -> None:
        batches = [batch for batch in batches if batch.partition in self._progress]
        for batch in batches:
            self._progress[batch.partition].deliver(batch.records, batch.next_offset)
        batches = [batch for batch in batches if batch.records]
        if not batches:
            return
        now_ms = int(time.time() * 1000)
        taken = await self._in(self._intake_thread, lambda: [self._intake.take(batch, now_ms) for batch in batches])
        for batch, (items, refused) in zip(batches, taken, strict=True):
            progress = self._progress[batch.partition]
            progress.apply(PartitionResult(outputs=[*refused], finished=[letter.offset for letter in refused]))
            self._dead_total.add(len(refused))
            for item in items:
                self._batcher.add(item.key, item)
            self._records.add(len(batch.records))
        if len(self._batcher):
            self._work.set()

    def _mind_memory(self) -> None:
        """Pause all partitions while too much is read and not committed; resume at half (overload, promise 8)."""
        inflight = sum(p.inflight_bytes for p in self._progress.values())
        limit = self._options.commit.max_inflight_bytes
        if not self._paused and inflight > limit:
            self._paused = True
            self._consumer.pause(self._progress)
        elif self._paused and inflight <= limit // 2:
            self._paused = False
            self._consumer.resume(self._progress)

    # ------------------------------------------------------------------ partitions come and go

    async def _open(self, partition: TopicPartition) -> None:
        """Restore a partition, then let its records come; the others go on meanwhile."""
        warm = await self._still_warm(partition)
        progress, position = (warm, warm.committed) if warm is not None else await self._restored(partition)
        self._opening.begin_with_current(progress, progress.committed)
        self._progress[partition] = progress
        self._restoring.pop(partition, None)
        self._consumer.seek(partition, position)
        if not self._paused:
            self._consumer.resume([partition])
        if (since := self._revoked_at.pop(partition, None)) is not None:
            self._pause_ms.observe((time.perf_counter() - since) * 1000)
        await self._wake_all(partition)

    async def _wake_all(self, partition: TopicPartition) -> None:
        """Look into every state that no record has come for yet, so that damage anywhere is found soon.

        Partitions that are not live yet come first; a partition that leaves stops here, whoever owns it next goes on.
        """
        if others := list(self._restoring.values()):
            await asyncio.wait(others)
        wake = partial(self._stepper.waking.wake_some, partition.partition, STATES_AT_ONCE)
        while partition in self._progress and (woken := await self._in(self._engine_thread, wake)) is not None:
            if (books := self._progress.get(partition) or self._warm.get(partition)) is not None:
                books.apply(woken[partition.partition])

    async def _restored(self, partition: TopicPartition) -> tuple[Progress, int]:
        """The books of a partition from its changelog, and where reading starts."""
        started = time.perf_counter()
        saved = await self._patiently("restore", partial(self._opening.read, partition))
        for model in (*writers(saved.states), *saved.began_with):
            await self._know(model)
        progress = self._opening.books(partition, saved)
        for start in range(0, len(saved.states), HEADERS_AT_ONCE):  # between two parts live partitions are stepped
            part = saved.states[start : start + HEADERS_AT_ONCE]
            progress.apply(await self._in(self._engine_thread, partial(self._opening.take_in, progress, part)))
        await self._warming.warm_up(partition)
        ended, size = time.perf_counter(), sum(len(record.value or b"") for record in saved.states)
        self._restore_ms.observe((ended - started) * 1000)
        self._recovery.restored(started, ended, len(saved.states), size)
        self._saving.learn(len(saved.states), size)
        return progress, saved.position

    async def _still_warm(self, partition: TopicPartition) -> Progress | None:
        """The books of a partition that comes back as it was left: nobody else has committed since (rule 8)."""
        warm = self._warm.pop(partition, None)
        if warm is None:
            return None
        committed = await self._patiently("restore", partial(self._consumer.committed, partition))
        if committed is not None and (committed.offset, committed.metadata) == (warm.committed, warm.metadata):
            self._opening.take_over(partition)
            warm.came_back()
            return warm
        await self._forget(frozenset([partition]))
        return None

    async def _revoke(self, revoked: Revoked) -> None:
        opening = {p: self._restoring.pop(p) for p in revoked.partitions if p in self._restoring}
        for task in opening.values():
            task.cancel()
        await self._forget(frozenset(opening))  # what was restored so far is not ours
        mine = frozenset(revoked.partitions & self._progress.keys())
        if revoked.lost:
            self._batcher.drop(lambda key: any(key.partition == p.partition for p in mine))
            await self._forget(mine)
        else:
            self._revoked_at |= dict.fromkeys(mine, time.perf_counter())
            await self._leave(mine, keep_warm=True)
        self._opening.leave(revoked.partitions)
        self._consumer.settled(revoked)

    async def _leave(self, partitions: frozenset[TopicPartition], *, keep_warm: bool = False) -> None:
        """Drain, save, commit, release: one path for revoke and shutdown.

        keep_warm: partitions that are at rest keep their states, for they may come back with the next assignment.
        """
        numbers = {p.partition for p in partitions}
        try:
            async with asyncio.timeout(DRAIN_S):
                while any(self._progress[p].unfinished for p in partitions):
                    self._applied.clear()
                    await self._applied.wait()
        except TimeoutError:
            self._batcher.drop(lambda key: key.partition in numbers)
        keys = [StreamKey(p.partition, name) for p in partitions for name, _ in self._progress[p].unsaved()]
        await self._take_copies(keys)
        await self._commit_once(partitions)
        self._batcher.drop(lambda key: key.partition in numbers)
        if keep_warm:
            at_rest = {p for p in partitions if p in self._progress and self._progress[p].at_rest}
            self._warm |= {p: self._progress.pop(p) for p in at_rest}
            partitions -= at_rest
        await self._forget(partitions)

    async def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        if not partitions:
            return
        numbers = frozenset(p.partition for p in partitions)
        for partition in partitions:
            self._progress.pop(partition, None)
            self._warm.pop(partition, None)
            self._saving.forget(partition)
        await self._in(self._engine_thread, lambda: self._stepper.table.drop_partitions(numbers))

    # ------------------------------------------------------------------ stepping

    async def _step(self) -> None:
        while True:
            call = self._batcher.next()
            if not call:
                self._work.clear()
                await self._work.wait()
                continue
            started = time.perf_counter()
            result = await self._in(self._engine_thread, partial(self._stepper.run, call))
            self._step_ms.observe((time.perf_counter() - started) * 1000)
            self._batch_rows.observe(len(call))
            for item in result.begun:
                if TopicPartition(self._options.input.topic, item.key.partition) in self._progress:
                    self._batcher.put_back(item.key, item)
            self._apply(result)

    def _apply(self, result: CallResult) -> None:
        """What a call did, into the partitions' books; partitions that left meanwhile are passed over."""
        for partition, progress in self._progress.items():
            if partition.partition in result:
                progress.apply(result[partition.partition])
        self._applied.set()

    async def _change_over(self) -> None:
        """Streams of other versions also come later: with partitions, and when they wake."""
        while True:
            await asyncio.sleep(CHANGE_LOOK_S)
            if len(self._stepper.versions) > 1:
                await self.warm_up()

    def begin_with(self, model: str) -> None:
        """Streams whose first record was not read yet are to begin with another version."""
        for partition, progress in self._progress.items():
            progress.timeline.go_on(self._consumer.position(partition), model)

    async def warm_up(self) -> None:
        """Where streams that live are to change over with a warm state, make their stand-ins, some at a time."""
        for partition in list(self._progress):
            await self._warming.warm_up(partition)

    # ------------------------------------------------------------------ committing

    async def _commit(self) -> None:
        """Every interval, more seldom while the worker is behind; who has caught up is noticed within an interval.

        Partitions that have nothing to publish have a turn every few commits.
        """
        interval_s = self._options.commit.commit_interval_ms / 1000
        for number in count():
            began_s = time.monotonic()
            turns = {p: has_turn(number, quiet=b.quiet, awaited=self._paused) for p, b in self._progress.items()}
            await self._commit_once(frozenset(p for p, turn in turns.items() if turn))
            took_s = since_s = time.monotonic() - began_s
            while wait_s := until_commit_s(since_s, took_s, interval_s, behind=self._behind):
                await asyncio.sleep(min(wait_s, interval_s))
                since_s = time.monotonic() - began_s

    @property
    def _behind(self) -> bool:
        """Whether more waits, read or not, than a call takes."""
        return self._batcher.behind or self._lookout.unread_records > self._batcher.max_streams

    async def _commit_once(self, partitions: frozenset[TopicPartition]) -> None:
        """Publish and commit what is due of these partitions, waiting for a log that is away for up to `wait_s`."""
        async with self._commit_lock:
            due = [self._progress[p] for p in partitions if p in self._progress]
            commits = [(p, commit) for p in due if (commit := p.close()) is not None]
            if not commits:
                return
            started = time.perf_counter()
            written = await self._patiently("commit", partial(self._write, commits))
            gone = [(mark.stream, mark.position) for progress in written for mark in progress.settle()]
            self._commit_ms.observe((time.perf_counter() - started) * 1000)
            if gone:
                await self._in(self._engine_thread, lambda: self._stepper.table.forget_marks(gone))

    async def _write(self, commits: Sequence[tuple[Progress, Commit]]) -> list[Progress]:
        """Those whose books are still open: of a partition that was lost and came back others may have answered all."""
        ours = [(book, commit) for book, commit in commits if self._progress.get(book.partition) is book]
        if ours:
            await self._consumer.commit([commit for _, commit in ours])
        return [book for book, _ in ours]

    async def _patiently(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, for as long as a log that is away is waited for, or a topic that a young broker lacks.

        Raises LogUnavailable, TopicMissing after that.
        """
        return await patiently(what, attempt, self._options.commit.wait_s, missing_s=MISSING_S)

    # ------------------------------------------------------------------ saving

    async def _save(self) -> None:
        """Stagger snapshots: every tick the oldest unsaved streams, within the bytes-per-second budget (rule 3)."""
        while True:
            await asyncio.sleep(self._saving.tick_s)
            await self._take_copies(self._saving.due(self._progress, time.monotonic()))

    async def _take_copies(self, keys: Sequence[StreamKey]) -> None:
        if not keys:
            return
        copies = await self._in(self._engine_thread, lambda: self._stepper.table.copies(keys))
        self._saving.saved(copies)
        result = CallResult()
        result.add_copies(copies)
        self._apply(result)

    # ------------------------------------------------------------------ looking

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._lookout.look()
            self._expected_recovery_ms.set(self._expected_recovery())
            if self._opening.standby is not None:
                self._standby_bytes.set(self._opening.standby.nbytes)

    async def _step_streams(self, work: Callable[[], CallResult]) -> None:
        self._apply(await self._in(self._engine_thread, work))

    def _expected_recovery(self) -> float:
        return self._recovery.expected_ms(
            states=len(self._stepper.table),
            state_bytes=self._saving.state_bytes,
            rerun=sum(progress.rerun for progress in self._progress.values()),
            records=self._records.value,
            step_ms=self._step_ms.read()["sum"],
        )

    @property
    def lag_records(self) -> int:
        """Input not yet committed, -1 before the first look."""
        return self._lookout.lag_records

    async def drained(self) -> bool:
        """Whether everything in the input as of now is committed."""
        if self._restoring or not self._progress:
            return False
        try:
            ends = await self._log.offsets(self._progress)
        except LogUnavailable:
            return False  # nobody knows; who serves waits for the log, and says so when it has waited enough
        return all(p in self._progress and self._progress[p].committed >= bounds.end for p, bounds in ends.items())

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
