"""Promise 3 as a game: anything may happen to workers at any write, and what they say is as if nothing had.

Records of all kinds come, workers start, stop, die, are paused in the middle of a commit and go on with it when others
have taken over; each has other batches, slots and intervals. After every move what was said and what is saved is
compared with a reference in plain Python. `MACHINE_EXAMPLES` and `MACHINE_STEPS` make the game longer.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.sensor.hysteresis import AlertRule
from streamer.codecs.messages import decode
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, InputOptions, StreamOptions
from streamer.records import Record, TopicPartition
from streamer.tasks.alert import AlertTask
from streamer.tasks.prediction import PredictionTask
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.compacted_log import CompactedLog
from streamer.testing.faults import BAD, NanOnBad
from streamer.testing.serving import APPLICATION, INPUT, PIPELINE, QUICK, Serving, options_of
from streamer.worker import snapshot
from streamer.worker.epochs import believed
from streamer.worker.progress import FLOOR_KEY, floor_of
from streamer.worker.timeline import TIMELINE_KEY
from streamer.worker.topics import changelog_of, group_of
from tests.properties.sums_reference import (
    FIRE_AT,
    GARBAGE,
    HOLE,
    RESOLVE_AT,
    TTL_MS,
    Meaning,
    Reference,
    Sent,
    meaning,
)

T = TypeVar("T")
PARTITIONS, MOST_WORKERS = 2, 3
GROUP = group_of(APPLICATION, PIPELINE)
CHANGELOG = changelog_of(GROUP, INPUT)
LOOK_S = 0.002
OUTPUTS = ("predictions", "alerts", "streams", "deadletters")
PATIENCE_S = 20.0
SETTLE_S = 0.03
"""How long a revoked partition waits for a worker that is paused."""


class Move(NamedTuple):
    """What a source does next. kind: see `Source.send`; after_ms: since the last record."""

    stream: str
    kind: str
    eighths: int
    after_ms: int


class Source:
    """Where one stream of a partition comes from: it numbers its records, and sometimes does so wrongly."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seq = 0
        self._sessions = 0
        self._ended = False
        self._old: list[str] = []

    @property
    def _session(self) -> str | None:
        return f"s{self._sessions}" if self._sessions else None

    def send(self, move: Move, now_ms: int) -> Sent:
        """Its next record."""
        kind, value = move.kind, move.eighths / 8
        if kind in ("garbage", "hole"):
            return Sent(self._name, time_ms=now_ms, plain=GARBAGE if kind == "garbage" else HOLE)
        if kind == "duplicate":
            return Sent(self._name, value, max(0, self._seq - 1), self._session, now_ms)
        if kind == "late":
            return Sent(self._name, value, max(0, self._seq - 3), self._session, now_ms)
        if kind == "old session" and self._old:
            return Sent(self._name, value, self._seq, self._old[-1], now_ms)
        if kind == "new session":
            self._old += [] if self._session is None or self._ended else [self._session]
            self._sessions, self._seq = self._sessions + 1, 0
        self._seq += {"short gap": 2, "long gap": 6}.get(kind, 0)
        sent = Sent(self._name, value, self._seq, self._session, now_ms)
        self._seq += 1
        self._ended = kind in ("end", "bare end")
        if self._ended:
            self._old = []  # the mark that remembers them goes when the floor has passed it
            sent = sent._replace(eos=True, plain=b"" if kind == "bare end" else None)
        return sent._replace(seq=None if kind == "unnumbered" else sent.seq, value=BAD if kind == "bad" else value)


class Fate(NamedTuple):
    """What befalls a worker before it has made so many `writes` more: it dies, or is paused until it is woken."""

    what: str
    writes: int


NO_FATE = Fate("none", 0)


class Member:
    """A worker with what is to befall it."""

    def __init__(self, bench: Serving, log: MemoryLog, fate: Fate, *, atomic: bool) -> None:
        self._awake = asyncio.Event()
        self._log = BrokenLog(CompactedLog(log), atomic=atomic, meanwhile=self._before)
        self.meet(fate)
        self._worker = bench.worker(self._log)
        self._task = asyncio.create_task(self._worker.run())

    def meet(self, fate: Fate) -> None:
        """Take another fate, which counts from now; one that is paused already goes on when it is woken."""
        self._fate = fate._replace(writes=self._log.written + fate.writes)

    def wake(self) -> None:
        """Go on, if it is paused."""
        if self._fate.what == "pauses":
            self._fate = NO_FATE
        self._awake.set()
        self._awake.clear()

    async def stop(self) -> None:
        """Let it leave in order."""
        self.wake()
        self._worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([self._task])

    async def kill(self) -> None:
        """At once."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def died(self) -> bool:
        """Whether it is gone. Raises what ended it, if nobody meant to."""
        if not self._task.done():
            return False
        if not self._task.cancelled() and not isinstance(error := self._task.exception(), Died | None):
            raise error
        return True

    async def _before(self, write: int) -> None:
        if self._fate.what == "pauses" and write >= self._fate.writes:
            await self._awake.wait()
        if self._fate.what == "dies" and write >= self._fate.writes:
            raise Died(f"killed before write {write}")


KINDS = st.sampled_from(
    ["good"] * 8
    + ["unnumbered", "garbage", "hole", "duplicate", "late", "short gap", "long gap", "bad"]
    + ["end", "end", "bare end", "new session", "new session", "old session"]
)
MOVES = st.builds(Move, st.sampled_from("ab"), KINDS, st.integers(-6, 6), st.sampled_from([0, 0, 1, 10, TTL_MS + 1]))
COMMITS = st.builds(
    CommitOptions, commit_interval_ms=st.sampled_from([1, 10]), snapshot_interval_ms=st.sampled_from([1, 20, 60_000])
)
LINES = st.lists(MOVES, min_size=1, max_size=6)
FATES = st.builds(Fate, st.sampled_from(["none", "dies", "dies", "pauses"]), st.integers(0, 7))
WHILE = st.sampled_from([0, 2, 5, 10, 40])
"""Milliseconds: nothing happens, something is being done, a commit or two is through, a paused one has lost what it
had."""


class Workers(RuleBasedStateMachine):
    """One input of two partitions, and up to three workers."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._log = MemoryLog(settle_timeout_s=SETTLE_S, tombstone_retention_ms=0)
        self._sent: list[list[Sent]] = [[] for _ in range(PARTITIONS)]
        self._now_ms = [0] * PARTITIONS
        self._sources: dict[tuple[int, str], Source] = {}
        self._crew: list[Member] = []
        self._broken = False

    # ------------------------------------------------------------------ moves

    @initialize(
        atomic=st.booleans(),
        alerts=st.booleans(),
        deterministic=st.booleans(),
        there=st.lists(LINES, min_size=PARTITIONS, max_size=PARTITIONS),
        fate=FATES,
    )
    def begin(self, atomic: bool, alerts: bool, deterministic: bool, there: list[list[Move]], fate: Fate) -> None:
        self._atomic = self._always_atomic = atomic
        self._alerts, self._deterministic = alerts, deterministic
        self._do(self._bench(QUICK, 1, 1).create_topics())
        for partition, moves in enumerate(there):
            self.feed(partition, moves, 0)
        self.start(QUICK, 2, 2, fate, 5, False)

    @rule(partition=st.integers(0, PARTITIONS - 1), moves=LINES, ms=WHILE)
    def feed(self, partition: int, moves: list[Move], ms: int) -> None:
        new = []
        for move in moves:
            self._now_ms[partition] += move.after_ms
            source = self._sources.setdefault((partition, move.stream), Source(move.stream))
            new.append(source.send(move, self._now_ms[partition]))
        self._sent[partition] += new
        self._do(self._log.append(INPUT, partition, [sent.record() for sent in new]))
        self.live(ms)

    @rule(
        commit=COMMITS,
        rows=st.sampled_from([1, 2, 4]),
        chunks=st.sampled_from([1, 2, 8]),
        fate=FATES,
        ms=WHILE,
        delivers_otherwise=st.sampled_from([False] * 9 + [True]),
    )
    def start(
        self, commit: CommitOptions, rows: int, chunks: int, fate: Fate, ms: int, delivers_otherwise: bool
    ) -> None:
        async def started() -> Member:
            return Member(self._bench(commit, rows, chunks), self._log, fate, atomic=self._atomic)

        if delivers_otherwise and not self._crew:
            self._atomic = not self._atomic
            self._always_atomic = False
        if len(self._crew) < MOST_WORKERS:
            self._crew.append(self._do(started()))
        self.live(ms)

    @rule(number=st.integers(0, MOST_WORKERS - 1), fate=FATES)
    def meet(self, number: int, fate: Fate) -> None:
        if member := self._member(number):
            member.meet(fate)

    @rule(number=st.integers(0, MOST_WORKERS - 1), in_order=st.booleans())
    def leave(self, number: int, in_order: bool) -> None:
        if member := self._member(number):
            self._do(member.stop() if in_order else member.kill())

    @rule(number=st.integers(0, MOST_WORKERS - 1), ms=WHILE)
    def wake(self, number: int, ms: int) -> None:
        if member := self._member(number):
            member.wake()
        self.live(ms)

    @rule()
    def drain(self) -> None:
        self._do(self._drained())
        self._check_all_said()

    def live(self, ms: int) -> None:
        """Let the workers go on for so long."""
        self._do(asyncio.sleep(ms / 1000))

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def nothing_is_said_or_saved_that_should_not_be(self) -> None:
        with self._noticing():
            self._crew = [member for member in self._crew if not member.died()]
            for partition in range(PARTITIONS):
                seen = self._do(self._look(partition))
                self._check_said(partition, seen)
                self._check_saved(partition, seen)

    def teardown(self) -> None:
        try:
            if not self._broken:
                self._finish()
        finally:
            self._do(self._kill_all())
            self._runner.close()

    def _finish(self) -> None:
        """What is left is answered. Whoever comes then says nothing more, and has everything saved before long."""
        self.drain()
        self._do(self._kill_all())
        self._do(self._saved())
        self.nothing_is_said_or_saved_that_should_not_be()
        self._check_all_said()

    def _check_said(self, partition: int, seen: Seen) -> None:
        whole, settled = self._reference(partition).said, self._reference(partition, seen.committed).said
        for name, said in seen.said.items():
            assert name in whole, f"{name} says {said}, which nothing calls for"
            assert said == whole[name], f"{name} says {said}, not {whole[name]}"
        assert settled.keys() <= seen.said.keys(), f"lost: {settled.keys() - seen.said.keys()}"
        if self._always_atomic:
            assert seen.most == 1, "something is there twice"
            early = {name for name in seen.said.keys() - settled.keys() if not _is_settled_end(name, seen.committed)}
            assert not early, f"said before its record is committed: {early}"

    def _check_all_said(self) -> None:
        for partition in range(PARTITIONS):
            with self._noticing():
                said, expected = self._do(self._look(partition)).said, self._reference(partition).said
                assert said == expected, f"lost: {expected.keys() - said.keys()}"

    def _check_saved(self, partition: int, seen: Seen) -> None:
        """Whoever starts from what is saved now goes on with each stream as it was, and has all records it needs."""
        assert seen.floor <= seen.committed
        at_floor = self._reference(partition, seen.floor).live
        headers = {name: snapshot.peek(data) for name, data in seen.saved.items()}
        for name, header in headers.items():
            assert header.position <= seen.committed
            if header.kind == "mark":
                continue
            then = self._reference(partition, header.position).live
            assert name in then, f"a state of {name!r} at {header.position}, where it does not live"
            assert _sum_in(seen.saved[name]) == then[name].total
            if header.position < seen.floor:
                assert name in at_floor, f"{name!r} ended between its state and the floor"
                assert at_floor[name].last_offset < header.position, f"records of {name!r} are neither saved nor re-run"
        self._check_begins_afresh(partition, seen, {n: h.position for n, h in headers.items() if h.kind == "mark"})

    def _check_begins_afresh(self, partition: int, seen: Seen, marks: Mapping[str, int]) -> None:
        """A stream without a state begins at its next record: it must have ended before, and that must be told."""
        for name in {sent.stream for sent in self._sent[partition]} - (seen.saved.keys() - marks.keys()):
            then = self._reference(partition, max(seen.floor, marks.get(name, 0))).live.get(name)
            told = then is None or f"{INPUT}/{partition}/{then.last_offset}/ended/0" in seen.said
            assert told, f"nothing is saved of {name!r}, which lives and is not re-run whole"

    # ------------------------------------------------------------------ helpers

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop run: the workers live meanwhile."""
        with self._noticing():
            return self._runner.run(work)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Once something went wrong, nothing more is asked of the workers."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def _member(self, number: int) -> Member | None:
        """One of the crew. Who is there depends on how quickly they die: a move may find nobody."""
        return self._crew[number % len(self._crew)] if self._crew else None

    def _bench(self, commit: CommitOptions, rows: int, chunks: int) -> Serving:
        """Deterministic results name their batch: there all workers have the same."""
        rows = 2 if self._deterministic else rows
        options = options_of(
            PARTITIONS,
            input=InputOptions(topic=INPUT, partitions=PARTITIONS, missing="hold"),
            engine=EngineOptions(
                device="cpu", max_batch=rows, slots=rows, chunks_per_call=chunks, deterministic=self._deterministic
            ),
            streams=StreamOptions(ttl_s=TTL_MS / 1000, zero_fill_limit_records=self._fills),
            commit=commit,
        )
        rule = AlertRule(fire_at=FIRE_AT, resolve_at=RESOLVE_AT, cool_down_s=0.0)
        alerts = AlertTask(rule, score_name="y", band=None, predictions=True)
        return Serving(self._log, NanOnBad, options, task=alerts if self._alerts else PredictionTask(("y",)))

    @property
    def _fills(self) -> int:
        """A score is that of a record, not of what was made up before it."""
        return 0 if self._alerts else 2

    def _reference(self, partition: int, until: int | None = None) -> Reference:
        reference = Reference(partition, alerts=self._alerts, fills=self._fills)
        for offset, sent in enumerate(self._sent[partition][:until]):
            reference.take(offset, sent)
        return reference

    async def _look(self, partition: int) -> Seen:
        """Never waits, so that nothing changes meanwhile."""
        name, place = TopicPartition(INPUT, partition), TopicPartition(CHANGELOG, partition)
        committed = (await self._log.committed(GROUP, [name])).get(name)
        said: dict[str, Meaning] = {}
        counts: Counter[str] = Counter()
        for topic in OUTPUTS:
            for message in map(decode, self._log.partition(TopicPartition(topic, partition)).records):
                now = meaning(message)
                assert said.setdefault(message.id, now) == now, "one id, two meanings"
                counts[message.id] += 1
        latest: dict[bytes, Record] = {}
        for record in self._log.partition(place).records:
            latest.pop(record.key or b"", None)
            if record.value is not None:
                latest[record.key or b""] = record
        records = dict(believed(latest, committed, place).records)
        n = 0 if committed is None else committed.offset
        records.pop(TIMELINE_KEY, None)
        floor = records.pop(FLOOR_KEY, None)
        saved = {key.decode(): record.value or b"" for key, record in records.items()}
        return Seen(said, max(counts.values(), default=1), n, n if floor is None else floor_of(floor.value), saved)

    async def _drained(self) -> None:
        """Wait until everything is answered, by whoever is there or comes."""
        async with asyncio.timeout(PATIENCE_S):
            while not all([await self._is_at_end(partition) for partition in range(PARTITIONS)]):
                for member in self._crew:
                    member.wake()
                self._crew = [member for member in self._crew if not member.died()] or [self._quick_member()]
                await asyncio.sleep(LOOK_S)

    async def _saved(self) -> None:
        """Wait until a worker has saved everything, then send it away."""
        self._crew = [self._quick_member()]
        async with asyncio.timeout(PATIENCE_S):
            while not all([await self._is_at_end(partition, saved=True) for partition in range(PARTITIONS)]):
                self._crew[0].died()
                await asyncio.sleep(LOOK_S)
        await self._crew[0].kill()

    async def _is_at_end(self, partition: int, *, saved: bool = False) -> bool:
        seen = await self._look(partition)
        return (seen.floor if saved else seen.committed) == len(self._sent[partition])

    def _quick_member(self) -> Member:
        return Member(self._bench(QUICK, 2, 2), self._log, NO_FATE, atomic=self._atomic)

    async def _kill_all(self) -> None:
        for member in self._crew:
            await member.kill()


class Seen(NamedTuple):
    """A partition as it is. said: by id; most: how often the same id is there. saved: states and marks."""

    said: dict[str, Meaning]
    most: int
    committed: int
    floor: int
    saved: dict[str, bytes]


def _is_settled_end(name: str, committed: int) -> bool:
    """An end is told under the stream's last record, and may be published before the record that ended it."""
    _, _, offset, kind, _ = name.split("/")
    return kind in ("ended", "alert-at-end") and int(offset) < committed


def _sum_in(data: bytes) -> float:
    stream, _, _ = snapshot.load(data, snapshot.peek(data).model, {"sum": ("float32", (1,))})
    return 0.0 if stream.spilled is None else float(stream.spilled["sum"][0])


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(
    max_examples=int(os.environ.get("MACHINE_EXAMPLES", "40")),
    stateful_step_count=int(os.environ.get("MACHINE_STEPS", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
