"""A partition's completion watermark (DESIGN.md rule 2). Pure bookkeeping over offsets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Watermark:
    """N: the lowest delivered offset that is not finished, else the position behind the last delivered batch."""

    def __init__(self, position: int) -> None:
        self._delivered: deque[int] = deque()
        self._finished: set[int] = set()
        self._position = position

    @property
    def position(self) -> int:
        """Where reading goes on."""
        return self._position

    def deliver(self, offsets: Iterable[int], next_offset: int) -> None:
        """Records were read; offsets rise, and are not assumed consecutive."""
        self._delivered.extend(offsets)
        self._position = next_offset

    def finish(self, offsets: Iterable[int]) -> None:
        """Records were answered, dead-lettered or skipped on purpose."""
        self._finished.update(offsets)

    @property
    def value(self) -> int:
        """N."""
        delivered, finished = self._delivered, self._finished
        while delivered and delivered[0] in finished:
            finished.discard(delivered.popleft())
        return delivered[0] if delivered else self._position

    @property
    def unfinished(self) -> int:
        """Delivered records at or above N that are not finished."""
        return len(self._delivered) - len(self._finished)
