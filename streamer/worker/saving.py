"""When which stream's state is saved: oldest first, a bounded number of bytes a second (DESIGN.md rule 3).

Pure bookkeeping; times are seconds of any clock that only rises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from streamer.records import TopicPartition
from streamer.worker.progress import Progress
from streamer.worker.results import Copy, StreamKey

_LEAST_TICK_S = 0.02
_TICKS_AN_INTERVAL = 10
_FIRST_GUESS_BYTES = 4096.0


class Saving:
    """Shares the budget out. interval_s: how old an unsaved record becomes; bytes_per_s: the budget.

    state_bytes: what a state takes, as far as it is known.
    """

    def __init__(self, interval_s: float, bytes_per_s: float) -> None:
        self.tick_s = max(interval_s / _TICKS_AN_INTERVAL, _LEAST_TICK_S)
        self._interval_s = interval_s
        self._bytes_per_tick = bytes_per_s * self.tick_s
        self.state_bytes = _FIRST_GUESS_BYTES
        self._watermarks: dict[TopicPartition, deque[tuple[float, int]]] = {}
        self._turn = 0

    def due(self, books: Mapping[TopicPartition, Progress], now_s: float) -> list[StreamKey]:
        """The streams to save in this tick: partitions take turns, each with its oldest unsaved streams first."""
        waiting = [self._old(partition, progress, now_s) for partition, progress in books.items()]
        self._turn += 1
        first = self._turn % len(waiting) if waiting else 0
        shared = chain.from_iterable(zip_longest(*waiting[first:], *waiting[:first]))
        budget = max(1, int(self._bytes_per_tick / self.state_bytes))
        return [key for key in shared if key is not None][:budget]

    def saved(self, copies: Sequence[Copy]) -> None:
        """Learn how large states are."""
        self.learn(len(copies), sum(len(copy.data) for copy in copies))

    def learn(self, states: int, total_bytes: int) -> None:
        """So many states take so many bytes together."""
        if states:
            self.state_bytes = max(1.0, total_bytes / states)

    def forget(self, partition: TopicPartition) -> None:
        """A partition went to another owner."""
        self._watermarks.pop(partition, None)

    def _old(self, partition: TopicPartition, progress: Progress, now_s: float) -> list[StreamKey]:
        """Streams with a record stepped longer than the interval ago that no saved state contains, oldest first."""
        marks = self._watermarks.setdefault(partition, deque())
        marks.append((now_s, progress.watermark))
        before_s = now_s - self._interval_s
        while len(marks) > 1 and marks[1][0] <= before_s:
            marks.popleft()
        if marks[0][0] > before_s:
            return []
        return [StreamKey(partition.partition, name) for name, first in progress.unsaved() if first < marks[0][1]]
