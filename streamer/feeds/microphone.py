"""A microphone through PortAudio: the one file that knows sounddevice.

PortAudio calls back in a thread of its own, which must never wait: the callback copies its block into a bounded deque
(whose ends are atomic in CPython), wakes the event loop and returns. What does not fit is counted and becomes a gap
mark (`x-gap`) on the next record, as does what the device itself says it lost. `x-sample-index` counts over gaps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from streamer.errors import InputError
from streamer.feeds.capture import Block, BlockBuffer, Cutter
from streamer.feeds.own_thread import OwnThread
from streamer.feeds.pace import SYSTEM_CLOCK, Clock
from streamer.records import NewRecord

_SILENT_S = 3.0
"""A device that gives nothing for so long is gone: some drivers never say so."""

_open_sources: set[int] = set()


@dataclass(frozen=True, slots=True)
class Device:
    """An input device as the machine names it."""

    index: int
    name: str
    channels: int
    rate_hz: int
    default: bool


def devices() -> list[Device]:
    """All input devices, found anew. Raises InputError when PortAudio is missing."""
    sounddevice = _sounddevice()
    default = sounddevice.default.device[0]
    return [
        Device(i, d["name"], d["max_input_channels"], round(d["default_samplerate"]), i == default)
        for i, d in enumerate(sounddevice.query_devices())
        if d["max_input_channels"] > 0
    ]


class MicrophoneFeed:
    """Records of 100 ms from an input device, at the device's own rate; a live source.

    After it ended, `ended_because` says why.
    """

    def __init__(
        self,
        device: str | int | None = None,
        *,
        stream: str = "mic",
        rate_hz: int | None = None,
        channels: int = 1,
        chunk_ms: int = 100,
        buffer_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """device: index, name or a part of it; None is the default one. rate_hz: None is the device's own.

        buffer_s: how much is held here while the event loop is busy. Raises InputError for an unknown device (naming
        those there are) and a missing PortAudio.
        """
        self.device = _find(device)
        self._stream = stream
        self._rate_hz = rate_hz or self.device.rate_hz
        self._channels = min(channels, self.device.channels)
        self._chunk_samples = max(1, round(self._rate_hz * chunk_ms / 1000))
        self._blocks = BlockBuffer(round(buffer_s * self._rate_hz), 2 * self._channels)
        self._clock = clock
        self._source: Any = None
        self.ended_because = ""

    @property
    def name(self) -> str:
        return f"microphone {self.device.name}"

    @property
    def live(self) -> bool:
        return True

    @property
    def lost_samples(self) -> int:
        """Samples lost so far, by the device or because the event loop was busy; all of them in marked gaps."""
        return self._blocks.lost_samples

    async def batches(self) -> AsyncGenerator[Sequence[NewRecord], None]:
        """Records until the device is gone; the last one has `x-eos`. Raises InputError when it cannot be opened."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        stopped = asyncio.Event()
        cutter: Cutter | None = None
        wake = _Wake(loop, woken, stopped)
        async with OwnThread() as thread:
            try:
                await thread.run(self._open, wake)
                while not stopped.is_set() and await self._heard(woken):
                    blocks = self._blocks.drain()
                    cutter = cutter or self._cutter(blocks)
                    if records := cutter.cut(blocks):
                        yield records
            finally:
                await thread.run(self._close)
        self.ended_because = self.ended_because or f"{self.device.name} stopped: unplugged, or its driver failed"
        cutter = cutter or self._cutter([])
        yield [*cutter.cut(self._blocks.rest()), cutter.end()]

    def _cutter(self, first: Sequence[Block]) -> Cutter:
        """The stream begins with the first sample of `first`, whose last one has only just come."""
        samples = sum(len(block.pcm) for block in first) // (2 * self._channels)
        start_ms = self._clock.unix_ms() - samples * 1000 // self._rate_hz
        return Cutter(self._stream, self._rate_hz, self._channels, self._chunk_samples, start_ms)

    async def _heard(self, woken: asyncio.Event) -> bool:
        """Wait for a callback; False when none came for too long."""
        try:
            await asyncio.wait_for(woken.wait(), _SILENT_S)
        except TimeoutError:
            self.ended_because = f"{self.device.name} has given nothing for {_SILENT_S:g} s"
            return False
        woken.clear()
        return True

    def _open(self, wake: _Wake) -> None:
        sounddevice = _sounddevice(refresh=False)
        blocks = self._blocks
        bytes_per_frame = 2 * self._channels
        adc = _AdcClock(self._rate_hz)

        def callback(data: Any, frames: int, time: Any, status: Any) -> None:
            lost = adc.lost(time.inputBufferAdcTime, frames) if status.input_overflow else adc.note(time, frames)
            blocks.put(bytes(data)[: frames * bytes_per_frame], lost)
            wake.data()

        try:
            self._source = sounddevice.RawInputStream(
                samplerate=self._rate_hz,
                device=self.device.index,
                channels=self._channels,
                dtype="int16",
                callback=callback,
                finished_callback=wake.stop,
            )
            _open_sources.add(id(self))
            self._source.start()
        except sounddevice.PortAudioError as error:
            raise InputError(f"cannot record from {self.device.name} at {self._rate_hz} Hz: {error}") from None

    def _close(self) -> None:
        if self._source is not None:
            self._source.abort(ignore_errors=True)
            self._source.close(ignore_errors=True)
            self._source = None
        _open_sources.discard(id(self))


class _AdcClock:
    """How many samples a device lost, by the times it states for its blocks."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._next_s = 0.0

    def note(self, time: Any, frames: int) -> int:
        """Remember when the next block is due; nothing was lost."""
        self._next_s = time.inputBufferAdcTime + frames / self._rate_hz
        return 0

    def lost(self, adc_s: float, frames: int) -> int:
        """Samples between the last block and this one, at least 1: the device said that it lost some."""
        missing = round((adc_s - self._next_s) * self._rate_hz) if self._next_s else 1
        self._next_s = adc_s + frames / self._rate_hz
        return min(max(1, missing), 10 * self._rate_hz)


class _Wake:
    """Wakes the event loop from PortAudio's thread; a loop that is closed already hears nothing and needs nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, woken: asyncio.Event, stopped: asyncio.Event) -> None:
        self._loop = loop
        self._woken = woken
        self._stopped = stopped

    def data(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._loop.call_soon_threadsafe(self._woken.set)


def _sounddevice(refresh: bool = True) -> ModuleType:
    """The module, imported when it is needed: importing it starts PortAudio, which looks at all devices once."""
    try:
        import sounddevice
    except OSError as error:
        raise InputError(f"PortAudio is missing ({error}); install it: apt-get install libportaudio2") from None
    if refresh and not _open_sources:
        # PortAudio lists devices only when it starts; what was plugged in since is found by starting it again, which
        # would end every stream that is open.
        sounddevice._terminate()
        sounddevice._initialize()
    module: ModuleType = sounddevice
    return module


def _find(device: str | int | None) -> Device:
    there = devices()
    known = "; ".join(f"{d.index} {d.name}" for d in there) or "none"
    if isinstance(device, str) and device.isdigit():
        device = int(device)
    if device is None:
        found = [d for d in there if d.default] or there[:1]
    elif isinstance(device, int):
        found = [d for d in there if d.index == device]
    else:
        found = [d for d in there if d.name == device] or [d for d in there if device.lower() in d.name.lower()]
    if not found:
        wanted = "there is no microphone" if device is None else f"there is no input device {device!r}"
        raise InputError(f"{wanted}; input devices: {known}")
    return found[0]
