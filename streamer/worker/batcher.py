"""The batcher decides who steps now. Pure: no clock, no device, no I/O.

Streams take turns in the order in which their first waiting item came; a stream that is behind goes to the end of the
line after each turn. With one latency budget for all this is earliest deadline first, and it keeps a stream with a
long backlog from holding up the live ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Batcher(Generic[K, T]):
    """Items wait in one queue a stream. max_streams: rows of one call; max_items: of one stream in one call."""

    def __init__(self, max_streams: int, max_items: int) -> None:
        self.max_streams = max_streams
        self.max_items = max_items
        self._queues: dict[K, deque[T]] = {}
        self._line: deque[K] = deque()
        self._held: set[K] = set()
        self._waiting = 0

    def __len__(self) -> int:
        """Items waiting."""
        return self._waiting

    @property
    def behind(self) -> bool:
        """Whether more items wait than a call has rows."""
        return self._waiting > self.max_streams

    def add(self, stream: K, item: T) -> None:
        """Put an item behind its stream's others."""
        queue = self._queues.get(stream)
        if queue is None:
            self._queues[stream] = deque((item,))
            self._line.append(stream)
        else:
            queue.append(item)
        self._waiting += 1

    def put_back(self, stream: K, item: T) -> None:
        """An item that was begun takes its next turn before its stream's others, behind the streams that wait."""
        queue = self._queues.get(stream)
        if queue is None:
            self._queues[stream] = deque((item,))
            self._line.append(stream)
        else:
            queue.appendleft(item)
        self._waiting += 1

    def next(self) -> list[tuple[K, list[T]]]:
        """The next call: up to `max_streams` distinct streams with their oldest items in order."""
        call: list[tuple[K, list[T]]] = []
        behind: list[K] = []
        held: list[K] = []
        while self._line and len(call) < self.max_streams:
            stream = self._line.popleft()
            if stream in self._held:
                held.append(stream)
                continue
            queue = self._queues[stream]
            if len(queue) <= self.max_items:
                items = list(queue)
                del self._queues[stream]
            else:
                items = [queue.popleft() for _ in range(self.max_items)]
                behind.append(stream)
            self._waiting -= len(items)
            call.append((stream, items))
        self._line.extend(behind)
        self._line.extendleft(reversed(held))
        return call

    def hold(self, streams: Iterable[K]) -> None:
        """These streams are in no call until they are released; they keep their places in the line."""
        self._held.update(streams)

    def release(self, streams: Iterable[K]) -> None:
        """These streams take their turns again."""
        self._held.difference_update(streams)

    def drop(self, unwanted: Callable[[K], bool]) -> list[T]:
        """Remove all items of the streams that `unwanted` names and return them."""
        gone: list[T] = []
        for stream in [s for s in self._queues if unwanted(s)]:
            gone.extend(self._queues.pop(stream))
        self._line = deque(s for s in self._line if s in self._queues)
        self._waiting -= len(gone)
        return gone
