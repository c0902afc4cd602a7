"""Promise 3 as a game: anything may happen to workers at any write, and what they say is as if nothing had.

Records of all kinds come, workers start, stop, die, are paused in the middle of a commit and go on with it when others
have taken over; each has other batches, slots and intervals. After every move what was said and what is saved is
compared with a reference in plain Python. `MACHINE_EXAMPLES` and `MACHINE_STEPS` make the game longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.sensor.hysteresis import AlertRule
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions, InputOptions, StreamOptions
from streamer.tasks.alert import AlertTask
from streamer.tasks.prediction import PredictionTask
from streamer.testing.faults import NanOnBad
from streamer.testing.serving import APPLICATION, INPUT, PIPELINE, QUICK, Serving, options_of
from streamer.worker import snapshot
from streamer.worker.topics import group_of
from tests.properties.machine_crew import NO_FATE, PATIENCE_S, Fate, Member, Move, Source
from tests.properties.machine_look import Seen, is_settled_end, look, sum_in
from tests.properties.sums_reference import (
    FIRE_AT,
    RESOLVE_AT,
    TTL_MS,
    Reference,
    Sent,
)

T = TypeVar("T")
PARTITIONS, MOST_WORKERS = 2, 3
GROUP = group_of(APPLICATION, PIPELINE)
LOOK_S = 0.002
SETTLE_S = 0.03
"""How long a revoked partition waits for a worker that is paused."""


KINDS = st.sampled_from(
    ["good"] * 8
    + ["unnumbered", "garbage", "hole", "duplicate", "late", "short gap", "long gap", "bad"]
    + ["end", "end", "bare end", "new session", "new session", "old session", "old session"]
)
MOVES = st.builds(Move, st.sampled_from("ab"), KINDS, st.integers(-6, 6), st.sampled_from([0, 0, 1, 10, TTL_MS + 1]))
COMMITS = st.builds(
    CommitOptions,
    commit_interval_ms=st.sampled_from([1, 10]),
    snapshot_interval_ms=st.sampled_from([1, 20, 60_000]),
    max_inflight_bytes=st.sampled_from([500, 64_000_000]),
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
            early = {name for name in seen.said.keys() - settled.keys() if not is_settled_end(name, seen.committed)}
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
            assert sum_in(seen.saved[name]) == then[name].total
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
        return await look(self._log, GROUP, partition)

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


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(
    max_examples=int(os.environ.get("MACHINE_EXAMPLES", "40")),
    stateful_step_count=int(os.environ.get("MACHINE_STEPS", "15")),
    deadline=None,
    # The same moves fall into another moment each time: what is made shorter may be right by chance.
    phases=[phase for phase in Phase if phase is not Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
