"""Clocks that move only when they are told to, for whatever takes a clock: feeds and logs."""

from __future__ import annotations

import asyncio
import time


class FakeClock:
    """A feed's clock (`streamer.feeds.pace.Clock`) that moves when somebody sleeps. slept_s: how long each time.

    time_s: what it shows at first; unix_ms: the wall time of that moment. alarm: an event that is set when the clock
    has reached `alarm_at_s`.
    """

    def __init__(
        self,
        time_s: float = 0.0,
        unix_ms: int = 0,
        *,
        alarm: asyncio.Event | None = None,
        alarm_at_s: float = 0.0,
    ) -> None:
        self.time_s = time_s
        self.slept_s: list[float] = []
        self._begin_s = time_s
        self._begin_ms = unix_ms
        self._alarm = alarm
        self._alarm_at_s = alarm_at_s

    def now_s(self) -> float:
        """Seconds that only rise."""
        return self.time_s

    def unix_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._begin_ms + round((self.time_s - self._begin_s) * 1000)

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self.slept_s.append(seconds)
        self.time_s += seconds
        if self._alarm is not None and self.time_s >= self._alarm_at_s:
            self._alarm.set()


class FakeWallClock:
    """A log's clock (`now_ms=`): today, until time is let pass."""

    def __init__(self) -> None:
        self._now_ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self._now_ms

    def advance_s(self, seconds: float) -> None:
        """Let this much time pass."""
        self._now_ms += int(seconds * 1000)
