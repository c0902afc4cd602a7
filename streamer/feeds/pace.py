"""How fast a feed of stored data goes: in real time, N times faster, or as fast as it can."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from streamer.errors import ConfigurationError


class Clock(Protocol):
    """What time it is and how to wait; tests give another."""

    def now_s(self) -> float:
        """Seconds that only rise."""
        ...

    def unix_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


class Pace:
    """Holds back until a position in the data is due: `speed` seconds of data a second, 0 for no holding back."""

    def __init__(self, speed: float, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises ConfigurationError for a speed below 0."""
        if not 0 <= speed < float("inf"):
            raise ConfigurationError(f"speed {speed:g} is not 0 (as fast as possible) or more")
        self._speed = speed
        self._clock = clock
        self._origin: tuple[float, float] | None = None

    @property
    def holds_back(self) -> bool:
        """Whether there is a pace at all."""
        return self._speed > 0

    async def until(self, position_s: float) -> None:
        """Return when `position_s` of the data is due; the first position asked for is due at once."""
        if not self._speed:
            return
        now_s = self._clock.now_s()
        if self._origin is None:
            self._origin = now_s, position_s
        start_s, first_s = self._origin
        wait_s = start_s + (position_s - first_s) / self._speed - now_s
        if wait_s > 0:
            await self._clock.sleep(wait_s)
