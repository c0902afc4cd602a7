"""Who takes part in the game of `test_worker_machine`: sources that number their records, workers that meet a fate."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from streamer.log.memory import MemoryLog
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.compacted_log import CompactedLog
from streamer.testing.faults import BAD
from streamer.testing.serving import Serving
from tests.properties.sums_reference import GARBAGE, HOLE, Sent

PATIENCE_S = 20.0


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
