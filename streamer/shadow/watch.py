"""Follows what the live model and its shadow publish, and counts how far they agree.

Both sides are read from the log as any subscriber would. What each side has answered is told by what its group has
committed: that is asked first and the topics are read to their ends afterwards, so that whatever is missing then below
both offsets was never said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import starmap

from streamer.codecs.messages import Envelope, Role, decode
from streamer.log.base import Log, Reader
from streamer.observe.agreement import LIVE, SHADOW, Agreement, Figures, Place, Side, place_of
from streamer.records import RecordBatch, TopicPartition
from streamer.worker.topics import Part, source_of

logger = logging.getLogger(__name__)
COMPARED: tuple[Role, ...] = ("transcripts", "predictions", "alerts", "streams")
MOST_WAITING = 100_000
"""Messages of one side that wait for the other's; beyond it that side is read no further."""
LOOK_BACK = 4096
"""Records before a topic's end that are read too: a commit under way may have published some already."""
_READ = 2048
_READ_TIMEOUT_S = 0.2
_IDLE_SHARE = 3.0
"""For every second of counting so many are rested: whoever counts takes no more than a quarter of a core."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The two parts of a pipeline that are compared."""

    application: str
    pipeline: str
    live: Part
    shadow: Part

    def of(self, side: Side) -> Part:
        return self.live if side == LIVE else self.shadow

    def source(self, side: Side) -> str:
        """The `ce_source` of a side."""
        return source_of(self.application, self.pipeline, self.of(side).role)

    async def inputs(self, log: Log) -> list[TopicPartition]:
        """The partitions of the input."""
        topic = self.live.options.input.topic
        return [TopicPartition(topic, n) for n in range((await log.topics())[topic].partitions)]

    async def outputs(self, log: Log, side: Side) -> list[TopicPartition]:
        """The partitions of what a side publishes and is compared."""
        there = await log.topics()
        names = dict.fromkeys(getattr(self.of(side).options.outputs, role) for role in COMPARED)
        return [TopicPartition(name, n) for name in names if name in there for n in range(there[name].partitions)]

    async def committed(self, log: Log, side: Side) -> dict[TopicPartition, int]:
        """How far a side has answered each partition of the input; those without an offset are left out."""
        found = await log.committed(self.of(side).group, await self.inputs(log))
        return {name: at.offset for name, at in found.items()}


class Watch:
    """Compares two sides while they run. `prepare` before the shadow starts, then `look` again and again."""

    def __init__(self, log: Log, sides: Sides) -> None:
        self._log = log
        self._sides = sides
        self._agreement = Agreement()
        self._start: dict[Side, dict[TopicPartition, int]] = {}
        self._stack = AsyncExitStack()
        self._readers: dict[Side, Reader] = {}

    @property
    def figures(self) -> Figures:
        """What was counted so far."""
        return self._agreement.figures

    async def prepare(self) -> dict[TopicPartition, int]:
        """Remember where both sides' topics end. Returns where in the input a shadow begins that never ran before.

        That is where the live part has committed; partitions of which it has committed nothing are left out.
        Raises LogError.
        """
        for side in (LIVE, SHADOW):
            bounds = await self._log.offsets(await self._sides.outputs(self._log, side))
            self._start[side] = {name: max(at.begin, at.end - LOOK_BACK) for name, at in bounds.items()}
        live, shadow = [await self._sides.committed(self._log, side) for side in (LIVE, SHADOW)]
        begin = {name: max(live.get(name, 0), shadow.get(name, 0)) for name in {*live, *shadow}}
        self._agreement = Agreement(begin, self.figures)
        return live

    async def skip(self) -> None:
        """Go on from where both sides are now: what came before is no longer kept."""
        await self._stack.aclose()
        await self.prepare()
        await self.__aenter__()

    async def __aenter__(self) -> Watch:
        for side, start in self._start.items():
            self._readers[side] = await self._stack.enter_async_context(self._log.reader(start))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> float:
        """Read what is there and count it. Returns how long to rest, seconds. Raises LogError."""
        started = time.monotonic()
        answered = await answered_by_both(self._log, self._sides)
        whole = [await self._read_side(side) for side in (LIVE, SHADOW)]
        if all(whole):
            await asyncio.to_thread(self._agreement.settle, answered)
        elif all(self._is_full(side) for side in (LIVE, SHADOW)):
            logger.warning("%s and its shadow have little in common: comparing only a part", self._sides.pipeline)
            self._agreement.give_up()
        return (time.monotonic() - started) * _IDLE_SHARE

    async def _read_side(self, side: Side) -> bool:
        """Read a side to its end as of now; false when too much of it waits for the other."""
        reader = self._readers[side]
        ends = await self._log.offsets(self._start[side])
        source = self._sides.source(side)
        while any(reader.position(name) < at.end for name, at in ends.items()):
            if self._is_full(side):
                return False
            batches = await reader.read(max_records=_READ, timeout_s=_READ_TIMEOUT_S)
            await asyncio.to_thread(take_in, self._agreement, side, source, batches)
        return True

    def _is_full(self, side: Side) -> bool:
        return self._agreement.waiting(side) >= MOST_WAITING


async def answered_by_both(log: Log, sides: Sides) -> dict[TopicPartition, int]:
    """Below which offset of each partition both sides have said all they say."""
    live, shadow = [await sides.committed(log, side) for side in (LIVE, SHADOW)]
    return {name: min(at, shadow[name]) for name, at in live.items() if name in shadow}


def take_in(agreement: Agreement, side: Side, source: str, batches: Sequence[RecordBatch]) -> None:
    """Count the messages of `source`."""
    for message in messages_of(batches, source):
        agreement.see(side, message)


def messages_of(batches: Sequence[RecordBatch], source: str) -> list[Envelope]:
    """The messages of one `ce_source`: others share its topics."""
    mine = ("ce_source", source.encode())
    return [decode(record) for batch in batches for record in batch.records if mine in record.headers]


async def agreement_so_far(log: Log, sides: Sides) -> Figures:
    """How far two sides agree over everything that their topics hold and both have answered. Raises LogError.

    Compared from the first record that the shadow answered; where retention has cut a topic, from the first that is
    left in it. All of it is held in memory.
    """
    answered = await answered_by_both(log, sides)
    said = {side: await _Said.read(log, sides, side) for side in (LIVE, SHADOW)}

    def compare() -> Figures:
        begin = dict(answered)  # nothing is compared where the shadow has said nothing
        begin |= said[SHADOW].first
        for side in (LIVE, SHADOW):
            for name, offset in said[side].cut.items():
                begin[name] = max(offset, begin.get(name, 0))
        agreement = Agreement(begin)
        for side in (LIVE, SHADOW):
            for message in said[side].messages:
                agreement.see(side, message)
        agreement.settle(answered)
        agreement.finish()
        return agreement.figures

    return await asyncio.to_thread(compare)


@dataclass(slots=True)
class _Said:
    """What a side's topics hold of it. first: the first record answered, by partition of the input; cut: the first
    one left in a topic that has lost its beginning."""

    messages: list[Envelope] = field(default_factory=list)
    first: dict[TopicPartition, int] = field(default_factory=dict)
    cut: dict[TopicPartition, int] = field(default_factory=dict)

    @classmethod
    async def read(cls, log: Log, sides: Sides, side: Side) -> _Said:
        said, source = cls(), sides.source(side)
        kept = await log.offsets(await sides.outputs(log, side))
        firsts: dict[TopicPartition, dict[TopicPartition, int]] = {name: {} for name in kept}
        async with log.reader({name: bounds.begin for name, bounds in kept.items()}) as reader:
            while any(reader.position(name) < bounds.end for name, bounds in kept.items()):
                for batch in await reader.read(max_records=_READ, timeout_s=_READ_TIMEOUT_S):
                    messages = await asyncio.to_thread(messages_of, [batch], source)
                    _lower(firsts[batch.partition], map(place_of, messages))
                    said.messages += messages
        for name, first in firsts.items():
            _lower(said.first, starmap(Place, first.items()))
            if kept[name].begin:
                said.cut = {at: max(offset, said.cut.get(at, 0)) for at, offset in (said.cut | first).items()}
        return said


def _lower(known: dict[TopicPartition, int], places: Iterable[Place]) -> None:
    for partition, offset in places:
        known[partition] = min(offset, known.get(partition, offset))
