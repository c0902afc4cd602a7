"""Which streams' recurrent states lie in device slots, and which were spilled to the host because they went cold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np

from streamer.worker.slots import HostState, SlotPool
from streamer.worker.stream import Stream

K = TypeVar("K", bound=Hashable)
SPILL_AT_ONCE = 32
"""Cold streams move off the device in groups, so that a copy's fixed cost is shared."""


class Residence(Generic[K]):
    """Least recently stepped streams give up their slots first; what comes back is the same bit for bit.

    spilled_bytes: host memory that spilled states take.
    """

    def __init__(self, pool: SlotPool) -> None:
        self.pool = pool
        self._resident: OrderedDict[K, Stream] = OrderedDict()
        self.spilled_bytes = 0

    def __len__(self) -> int:
        """Streams on the device."""
        return len(self._resident)

    def bring(self, wanted: Sequence[tuple[K, Stream]]) -> None:
        """Give every stream a slot and mark it as the warmest. len(wanted) <= pool.capacity, keys distinct."""
        absent = []
        for key, stream in wanted:
            if stream.slot is None:
                absent.append((key, stream))
            else:
                self._resident.move_to_end(key)
        if not absent:
            return
        lacking = len(absent) - self.pool.free
        if lacking > 0:
            self._spill(lacking, {key for key, _ in wanted})
        self._place(absent)

    def leave(self, key: K, stream: Stream) -> None:
        """Forget a stream's recurrent state: its next step starts fresh."""
        if stream.slot is not None:
            self.pool.give_back(np.array([stream.slot], np.int64))
            del self._resident[key]
        self._came_back(stream)
        stream.slot = None

    def states(self, streams: Sequence[Stream]) -> list[HostState | None]:
        """The recurrent states as they are now, those on the device in one copy; None is fresh."""
        on_device = [s.slot for s in streams if s.slot is not None]
        copies = iter(self.pool.read(np.array(on_device, np.int64)) if on_device else [])
        return [next(copies) if s.slot is not None else s.spilled for s in streams]

    def hand_over(self, key: K, giver: Stream, taker: Stream) -> None:
        """Another stream goes on with the recurrent state that `giver` has."""
        taker.slot, taker.spilled = giver.slot, giver.spilled
        if key in self._resident:
            self._resident[key] = taker

    def _place(self, absent: list[tuple[K, Stream]]) -> None:
        back_slots: list[int] = []
        back_states: list[HostState] = []
        for key, stream in absent:
            stream.slot = self.pool.take()
            self._resident[key] = stream
            if stream.spilled is not None:
                back_slots.append(stream.slot)
                back_states.append(stream.spilled)
                self._came_back(stream)
        if back_slots:
            self.pool.write(np.array(back_slots, np.int64), list(back_states))

    def _spill(self, lacking: int, keep: set[K]) -> None:
        want = min(max(lacking, SPILL_AT_ONCE), len(self._resident))
        cold: list[K] = []
        for key in self._resident:
            if len(cold) == want:
                break
            if key not in keep:
                cold.append(key)
        streams = [self._resident.pop(key) for key in cold]
        slots = np.array([s.slot for s in streams], np.int64)
        for stream, state in zip(streams, self.pool.read(slots), strict=True):
            stream.spilled, stream.slot = state, None
            self.spilled_bytes += host_bytes(state)
        self.pool.give_back(slots)

    def adopt(self, stream: Stream) -> None:
        """Count a restored stream's state, which lies on the host until its first step."""
        if stream.spilled is not None:
            self.spilled_bytes += host_bytes(stream.spilled)

    def _came_back(self, stream: Stream) -> None:
        if stream.spilled is not None:
            self.spilled_bytes -= host_bytes(stream.spilled)
            stream.spilled = None


def host_bytes(state: HostState) -> int:
    """What a spilled state takes."""
    return sum(leaf.nbytes for leaf in state.values())
