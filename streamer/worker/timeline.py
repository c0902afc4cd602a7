"""Which version of the model streams of a partition begin with, by the offset of their first record.

A re-run begins streams again that were begun before and never saved. It must begin them with the version that did,
whichever is the current one by then; so the timeline lies in the changelog, beside the replay floor.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from streamer.errors import StateMismatch

TIMELINE_KEY = b"\x00models"
"""Changelog key of a partition's timeline; no stream id starts with a zero byte."""
_Entries = list[tuple[int, str]]


class Timeline:
    """Rising offsets, each with the version (`name-version@fingerprint`) that streams begin with from there on."""

    def __init__(self, entries: _Entries | None = None) -> None:
        self._entries: _Entries = entries or []

    @staticmethod
    def load(value: bytes | None) -> Timeline:
        """What `dump` wrote. Raises StateMismatch for anything else."""
        try:
            entries = msgspec.json.decode(value or b"[]", type=_Entries)
        except msgspec.DecodeError as error:
            raise StateMismatch(f"the record of which models streams began with cannot be read: {error}") from error
        if [offset for offset, _ in entries] != sorted({offset for offset, _ in entries}):
            raise StateMismatch("the record of which models streams began with is not in order")
        return Timeline(entries)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._entries)

    @property
    def latest(self) -> str | None:
        """The version that streams begin with now, None where that was never said."""
        return self._entries[-1][1] if self._entries else None

    def at(self, offset: int) -> str | None:
        """The version that a stream whose first record has this offset begins with."""
        index = bisect_right(self._entries, offset, key=lambda entry: entry[0])
        return self._entries[index - 1][1] if index else None

    def within(self, begin: int, end: int) -> list[str]:
        """The versions that streams begin with from one offset to before another."""
        later = [model for offset, model in self._entries if begin < offset < end]
        first = self.at(begin) if begin < end else None
        return list(dict.fromkeys(([] if first is None else [first]) + later))

    def go_on(self, offset: int, model: str) -> bool:
        """From `offset` on streams begin with `model`. Returns whether that changed anything."""
        if self.latest == model:
            return False
        self._entries = [*((o, m) for o, m in self._entries if o < offset), (offset, model)]
        return True

    def forget(self, below: int) -> None:
        """No stream will begin below this offset any more."""
        index = bisect_right(self._entries, below, key=lambda entry: entry[0])
        self._entries = self._entries[max(0, index - 1) :]
