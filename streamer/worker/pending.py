"""What waits to be published: single messages, and steps' predictions as columns. Pure bookkeeping over offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.codecs.messages import Role
from streamer.columns import NewColumns, NewParts, Numbers
from streamer.records import NewRecord


class Pending(msgspec.Struct, frozen=True, gc=False):
    """An encoded output, caused by the record at `offset` of its partition."""

    offset: int
    role: Role
    record: NewRecord
    decision: bool


class PendingColumns(msgspec.Struct, frozen=True, gc=False):
    """Encoded outputs of one step, none of them a decision. offsets: (n,) of the records that caused them, n > 0."""

    offsets: Numbers
    role: Role
    records: NewColumns

    def below(self, offset: int) -> PendingColumns | None:
        """Those caused below `offset`, None for none."""
        if self.offsets.max() < offset:
            return self
        return None if self.offsets.min() >= offset else self._where(self.offsets < offset)

    def since(self, offset: int) -> PendingColumns | None:
        """Those caused at `offset` or above, None for none."""
        if self.offsets.min() >= offset:
            return self
        return None if self.offsets.max() < offset else self._where(self.offsets >= offset)

    def _where(self, wanted: NDArray[np.bool_]) -> PendingColumns:
        return PendingColumns(self.offsets[wanted], self.role, self.records.take(wanted))


Said = Pending | PendingColumns


def unpublished(outputs: Iterable[Said], committed: int) -> list[Said]:
    """Without what was published before: a re-run says only decisions anew (DESIGN.md rule 4)."""
    kept: list[Said] = []
    for said in outputs:
        if type(said) is PendingColumns:
            if (rest := said.since(committed)) is not None:
                kept.append(rest)
        elif said.offset >= committed or said.decision:  # type: ignore[union-attr] # the other kind was just taken out
            kept.append(said)
    return kept


def parted(outputs: Iterable[Said], offset: int) -> tuple[list[Said], list[Said]]:
    """What was caused below `offset`, and the rest."""
    below: list[Said] = []
    rest: list[Said] = []
    for said in outputs:
        if isinstance(said, Pending):
            (below if said.offset < offset else rest).append(said)
            continue
        if (part := said.below(offset)) is not None:
            below.append(part)
        if (part := said.since(offset)) is not None:
            rest.append(part)
    return below, rest


def by_topic(outputs: Iterable[Said], topic_of: Callable[[Role], str]) -> list[tuple[str, Sequence[NewRecord]]]:
    """The records for each topic in their order, columns and single records apart where both are there."""
    by_name: dict[str, list[Said]] = {}
    for said in outputs:
        by_name.setdefault(topic_of(said.role), []).append(said)
    return [(name, _records(list(group))) for name, mine in by_name.items() for _, group in groupby(mine, type)]


def _records(outputs: Sequence[Said]) -> Sequence[NewRecord]:
    """Of one kind."""
    columns = [said.records for said in outputs if isinstance(said, PendingColumns)]
    return NewParts(columns) if columns else [said.record for said in outputs if isinstance(said, Pending)]
