"""Who waits for news in a SQLite file: rung at once by writes of this log, within 10 ms by other processes'.

The file is asked (`PRAGMA data_version`) only while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from streamer.log.sqlite_file import SqliteThread

_POLL_S = 0.01


class Bell:
    """Wakes waiters whenever the file may have changed since they looked."""

    def __init__(self, thread: SqliteThread) -> None:
        self._thread = thread
        self._rings = 0
        self._waiters: dict[asyncio.Event, int] = {}  # each with the data version its owner has seen
        self._poller: asyncio.Task[None] | None = None

    @property
    def rings(self) -> int:
        """How often this log itself has rung: take it before looking."""
        return self._rings

    def ring(self) -> None:
        """Something was written by this log."""
        self._rings += 1
        for wake in self._waiters:
            wake.set()

    async def wait(self, wake: asyncio.Event, rings: int, seen_version: int, deadline_s: float) -> bool:
        """Wait for `wake`, a ring after `rings` or a data version other than `seen_version`; False at the deadline."""
        if rings != self._rings:
            return True
        if asyncio.get_running_loop().time() >= deadline_s:
            return False
        self._waiters[wake] = seen_version
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout_at(deadline_s):
                await wake.wait()
            return True
        except TimeoutError:
            return False
        finally:
            del self._waiters[wake]

    async def close(self) -> None:
        """Stop polling."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    async def _poll(self) -> None:
        while self._waiters:
            version = await self._thread.run(data_version)
            for wake, seen_version in self._waiters.items():
                if version != seen_version:
                    wake.set()
            await asyncio.sleep(_POLL_S)
        self._poller = None


def data_version(connection: sqlite3.Connection) -> int:
    """Changes when another connection has written. See https://www.sqlite.org/pragma.html#pragma_data_version"""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
