"""In which phase a worker is, written where it can be read after the worker was killed.

A board is a small file that the worker maps into memory: what it wrote last stands there when it is dead, however it
died. So the phase that is counted is the one of the kill, not one that was seen some time before.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from enum import IntEnum
from pathlib import Path

from streamer.log.base import Commit, Committed
from streamer.records import TopicPartition
from tests.chaos.steps import Step

_DOUBLES = 3
_PLACES = 2
_TRAP, _SPRUNG = _DOUBLES * _PLACES, _DOUBLES * _PLACES + 1
JUST_S = 0.5
"""A worker that published within so many seconds before its end had just published."""


class Phase(IntEnum):
    """What a worker is doing. A board that nobody has written on says joining.

    joining: from the start of the process, or from a rebalance, until it has partitions. restoring: it reads their
    states. rerunning: from where the state is true to its first commit beyond what was committed. live: between two
    transactions. transaction: one is begun, its end not yet asked for. lost: its end was asked for and what became of
    it is not known to the worker: the answer is on its way, or was lost and is being settled.
    """

    JOINING = 0
    RESTORING = 1
    RERUNNING = 2
    LIVE = 3
    TRANSACTION = 4
    LOST = 5


NAMES = {
    Phase.JOINING: "joining",
    Phase.RESTORING: "restoring",
    Phase.RERUNNING: "re-running",
    Phase.LIVE: "live",
    Phase.TRANSACTION: "open transaction",
    Phase.LOST: "answer lost",
}
_BUSY = (Phase.LOST, Phase.TRANSACTION, Phase.RERUNNING, Phase.RESTORING, Phase.JOINING)


class Board:
    """The board of one worker, with a place for each of its pipelines; and the step at which it is to die."""

    def __init__(self, path: Path, pipelines: int, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(8 * (_SPRUNG + 1)))
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._places = range(pipelines)

    def say(self, place: int, phase: Phase) -> None:
        """The worker's pipeline at `place` is in this phase now."""
        self._cells[_DOUBLES * place] = float(phase)

    def published(self, place: int) -> None:
        """Outputs were committed just now."""
        self._cells[_DOUBLES * place + 1] = time.monotonic()
        self._cells[_DOUBLES * place + 2] += 1

    @property
    def trap(self) -> Step | None:
        """The step of a commit at which the worker is to die."""
        return Step(int(self._cells[_TRAP])) if self._cells[_TRAP] else None

    @trap.setter
    def trap(self, step: Step | None) -> None:
        self._cells[_TRAP] = float(step or 0)

    @property
    def sprung(self) -> Step | None:
        """The step at which the worker died."""
        return Step(int(self._cells[_SPRUNG])) if self._cells[_SPRUNG] else None

    def die(self, step: Step) -> None:
        """Kill this very process, and leave word where."""
        self._cells[_SPRUNG] = float(step)
        os.kill(os.getpid(), signal.SIGKILL)

    @property
    def phase(self) -> Phase:
        """Of the whole worker: that of the pipeline that has most to lose."""
        phases = {Phase(int(self._cells[_DOUBLES * place])) for place in self._places}
        return next((phase for phase in _BUSY if phase in phases), Phase.LIVE)

    @property
    def published_at(self) -> float:
        """Monotonic time of the last publication, 0 before the first."""
        return max(self._cells[_DOUBLES * place + 1] for place in self._places)

    @property
    def publications(self) -> int:
        """How many commits with outputs there were."""
        return int(sum(self._cells[_DOUBLES * place + 2] for place in self._places))


class Watch:
    """Follows one pipeline of a worker and says its phase on the board.

    losses: answers still to be lost; True where the transaction is to happen all the same.
    """

    def __init__(self, board: Board, place: int, losses: list[bool]) -> None:
        self._board, self._place = board, place
        self.losses = losses
        self._partitions: dict[TopicPartition, Phase] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._open: set[TopicPartition] = set()
        self._unknown: set[TopicPartition] = set()

    def joining(self) -> None:
        """The worker has no partitions."""
        for known in (self._partitions, self._committed, self._open, self._unknown):
            known.clear()
        self._say()

    def assigned(self, partition: TopicPartition) -> None:
        """It is to be restored."""
        self._partitions[partition] = Phase.RESTORING
        self._say()

    def read_committed(self, partition: TopicPartition, at: Committed | None) -> None:
        """What the group has committed of a partition that is being restored."""
        self._committed[partition] = 0 if at is None else at.offset

    def begins_at(self, partition: TopicPartition, offset: int) -> None:
        """It is restored; its records are read from here."""
        behind = offset < self._committed.get(partition, 0)
        self._partitions[partition] = Phase.RERUNNING if behind else Phase.LIVE
        self._say()

    def opened(self, partition: TopicPartition) -> None:
        """A transaction begins."""
        self._open.add(partition)
        self._say()

    def ending(self, partition: TopicPartition) -> None:
        """A transaction's end is about to be asked for."""
        self._unknown.add(partition)
        self._say()

    def closed(self, partition: TopicPartition, *, known: bool) -> None:
        """A transaction is over as far as the worker can tell; known: it knows what became of it."""
        self._open.discard(partition)
        if known:
            self._unknown.discard(partition)
        self._say()

    @property
    def trap(self) -> Step | None:
        """The step of a commit at which the worker is to die."""
        return self._board.trap

    def at(self, step: Step) -> None:
        """The worker has come to this step of a commit: it dies here if it is to."""
        if self._board.trap is step:
            self._board.die(step)

    def committed(self, commit: Commit) -> None:
        """A commit is settled."""
        name = commit.partition
        if name in self._partitions and commit.offset > self._committed.get(name, 0):
            self._partitions[name] = Phase.LIVE
        if any(append.records for append in commit.outputs):
            self._board.published(self._place)
        self.closed(name, known=True)

    def _say(self) -> None:
        phases = set(self._partitions.values()) or {Phase.JOINING}
        if self._open:
            phases.add(Phase.TRANSACTION)
        if self._unknown:
            phases.add(Phase.LOST)
        self._board.say(self._place, next((phase for phase in _BUSY if phase in phases), Phase.LIVE))
