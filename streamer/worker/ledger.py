"""How a partition's commits lie in its changelog: as they are, or under the epoch of their owner (`epochs`)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from streamer.log.base import Commit
from streamer.records import Append, NewRecord
from streamer.worker.epochs import CLAIM_KEY, COMMIT_HEADER, Believed, Named, Root, named


class Ledger(Protocol):
    """What becomes of a commit's changelog records before it is written."""

    def close(self, commit: Commit) -> Commit:
        """The commit as it is written. It stays open until `settle`."""
        ...

    def settle(self) -> None:
        """What was closed is durable."""
        ...


class PlainLedger:
    """All of a commit happens at once: records lie under their own keys. stale: keys that count no more."""

    def __init__(self, changelog: str, stale: Sequence[bytes] = ()) -> None:
        self._changelog = changelog
        self._stale = stale

    def close(self, commit: Commit) -> Commit:
        """The commit, and once the end of what counts no more."""
        if not self._stale:
            return commit
        gone = Append(self._changelog, commit.partition.partition, _tombstones(self._stale))
        return replace(commit, tombstones=[*commit.tombstones, gone])

    def settle(self) -> None:
        """What was closed is durable."""
        self._stale = ()


class EpochLedger:
    """A commit is several writes: its changelog records lie under this owner's epoch and say which commit they are of.

    A slot is ended by a tombstone when a later commit than the one that took its place is written: until then nobody
    knows that this one counts. For the same reason an owner's first commit ends nothing.
    """

    def __init__(self, changelog: str, before: Believed) -> None:
        """before: what was found of earlier owners."""
        self._changelog = changelog
        self._epoch = secrets.token_hex(8)
        self._claim = before.chain
        self._held = dict(before.held)
        self._over = dict.fromkeys(before.stale)
        self._number = 0
        self._written: dict[bytes, bytes] = {}
        self._dead: list[bytes] = []

    def close(self, commit: Commit) -> Commit:
        """The commit under this owner's keys, its metadata the new root."""
        number = self._number + 1
        self._header = [(COMMIT_HEADER, b"%d" % number)]
        self._written = {}
        states, floor = self._named(commit.states), self._named(commit.floor)
        self._dead = [r.key or b"" for append in commit.tombstones for r in append.records]
        front: list[NewRecord] = []
        if number == 1:
            claim = msgspec.json.encode(self._claim)
            front.append(NewRecord(Named(self._epoch, 0, CLAIM_KEY).raw(), claim, self._header))
        else:
            rewritten = frozenset(self._written.values())
            front += _tombstones(key for key in self._over if key not in rewritten)
        return replace(
            commit,
            metadata=str(Root(self._epoch, number)),
            states=self._with(front, commit, states),
            floor=floor,
            tombstones=self._ends(commit) if number > 1 else [],
        )

    def settle(self) -> None:
        """What was closed is durable: what it took the place of ends with the next commit."""
        self._number += 1
        if self._number > 1:
            self._over.clear()
        for key, raw in self._written.items():
            if (before := self._held.get(key)) is not None:
                self._over[before] = None
            self._held[key] = raw
        for key in self._dead:
            raw = self._held.pop(key, b"")
            if self._number == 1 and raw:
                self._over[raw] = None
        self._written, self._dead = {}, []

    def _named(self, appends: Sequence[Append]) -> list[Append]:
        return [a._replace(records=self._renamed(a.records)) if a.topic == self._changelog else a for a in appends]

    def _renamed(self, records: Sequence[NewRecord]) -> list[NewRecord]:
        return [r._replace(key=self._slot_for(r.key or b""), headers=self._header) for r in records]

    def _slot_for(self, key: bytes) -> bytes:
        """The slot that does not hold what is settled."""
        epoch, slot, _ = named(self._held.get(key, b""))
        raw = Named(self._epoch, 1 - slot if epoch == self._epoch else 0, key).raw()
        self._written[key] = raw
        return raw

    def _with(self, front: list[NewRecord], commit: Commit, states: list[Append]) -> list[Append]:
        """`front` before the states, in one append with them."""
        if not front:
            return states
        mine = [record for a in states if a.topic == self._changelog for record in a.records]
        others = [a for a in states if a.topic != self._changelog]
        return [Append(self._changelog, commit.partition.partition, [*front, *mine]), *others]

    def _ends(self, commit: Commit) -> list[Append]:
        keys = [self._held[key] for key in self._dead if key in self._held]
        return [Append(self._changelog, commit.partition.partition, _tombstones(keys))] if keys else []


def _tombstones(keys: Iterable[bytes]) -> list[NewRecord]:
    return [NewRecord(key, None) for key in keys]
