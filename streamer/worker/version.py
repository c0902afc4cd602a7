"""The versions of a pipeline's model, ready to step: each a network with its state pool, a task, and a name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

from streamer.codecs.messages import Output
from streamer.options import PipelineOptions
from streamer.tasks.base import StreamView, Task, TaskBatch
from streamer.worker.conversion import Conversion
from streamer.worker.engine import Engine
from streamer.worker.outbox import Outbox
from streamer.worker.residence import Residence
from streamer.worker.results import StreamKey
from streamer.worker.stream import Stream
from streamer.worker.timeline import Timeline

PIECES_OF_CHUNKS = 4
"""A long record is stepped in pieces of at most this many preferred chunks (deterministic mode: one)."""
EVENTS_PER_PIECE = 64
AtChange = Literal["finish", "reset", "warm_up"]


class Version:
    """What a stream is stepped with. A worker may hold several; every stream has one, and its saved state names it.

    model: `name-version@fingerprint`. piece: samples of a record that are stepped at once. records_per_run: how many
    events of one stream that is behind may be one row of a step. state_layout: what a saved recurrent state must match;
    exact_numerics: what it must have been computed with, None where its bits need not go on exactly.
    """

    def __init__(
        self,
        model: str,
        engine: Engine,
        task: Task,
        outbox: Outbox,
        options: PipelineOptions,
        *,
        tail_samples: int = 0,
    ) -> None:
        """outbox: says things in this version's name; tail_samples: silence that a stream's end is stepped with."""
        self.model = model
        self.engine = engine
        self.task = task
        self.outbox = outbox
        self.residence: Residence[StreamKey] = Residence(engine.pool)
        self.state_layout = engine.pool.layout()
        self.numerics = engine.numerics()
        self.exact_numerics = self.numerics if options.engine.deterministic else None
        self.compress_states = options.commit.compress_states
        signature = engine.signature
        self.rate_hz = signature.rate_hz
        hold = options.input.missing == "hold" or not signature.missing
        self.conversion = Conversion(self.rate_hz, hold=hold, tail_samples=tail_samples)
        pieces = 1 if options.engine.deterministic else PIECES_OF_CHUNKS
        self.piece = signature.chunk_samples * pieces if self.rate_hz else EVENTS_PER_PIECE
        self.records_per_run = self._records_per_run(options)

    def _records_per_run(self, options: PipelineOptions) -> int:
        """One, unless the model gives a frame for every event and the task says of each what no other event bears on.

        A decision needs the state right after its own record.
        """
        signature = self.engine.signature
        frame_an_event = not signature.rate_hz and signature.samples_per_frame == 1 and not signature.latency_samples
        if options.engine.deterministic or not frame_an_event or not self.task.independent:
            return 1
        return min(options.engine.chunks_per_call, EVENTS_PER_PIECE)

    def samples(self, count: int, rate_hz: int) -> int:
        """`count` samples at `rate_hz` as samples of the model's rate; events have no rate and stay what they are."""
        return count * self.rate_hz // rate_hz if rate_hz else count


class Left:
    """The task of a version that is not at hand: what it left behind is kept as it is, and nothing is said."""

    independent = False

    def initial(self, clock_samples: int) -> Any:
        return None

    def restart(self, stream: StreamView) -> Any:
        return stream.task

    def advance(self, batch: TaskBatch) -> NoReturn:
        raise AssertionError("a stream is stepped by a version that is not at hand")

    def finish(self, stream: StreamView) -> list[Output]:
        return []

    def dump(self, state: Any) -> Any:
        return state

    def load(self, data: Any) -> Any:
        return data


def absent(model: str, current: Version) -> Version:
    """A version that is not at hand, in whose name a saved stream waits for its next record; `current` takes over."""
    version = copy.copy(current)
    version.model, version.task, version.records_per_run = model, Left(), 0
    return version


class Versions:
    """The versions that a worker holds, used on the engine's thread.

    current: streams begin with it. The others go on with the streams they have, or those change over to the current
    one, each at a record of its own, as `at_change` says. live_from: by partition, what was committed when it was
    opened; a re-run below it steps each stream as it was stepped before. timelines: by partition, which version streams
    begin with. warmed: stand-ins for streams that are to
    change over, their network stepped through the latest input; None where there was nothing to warm one up with.
    """

    def __init__(self, current: Version, at_change: AtChange = "finish", *, warms_absent: bool = False) -> None:
        """warms_absent: streams of versions that are not at hand are to be warmed up too."""
        self.current = current
        self.at_change = at_change
        self.live_from: dict[int, int] = {}
        self.timelines: dict[int, Timeline] = {}
        self.warmed: dict[StreamKey, Stream | None] = {}
        self._warms_absent = warms_absent
        self._held = {current.model: current}

    def __iter__(self) -> Iterator[Version]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def of(self, model: str) -> Version | None:
        """The version of this name, if the worker holds it."""
        return self._held.get(model)

    def beginning(self, partition: int, offset: int) -> Version:
        """What a stream begins with whose first record has this offset: the current version, unless it began before."""
        timeline = self.timelines.get(partition)
        model = None if timeline is None else timeline.at(offset)
        return self.current if model is None else self._held.get(model, self.current)

    def holds(self, version: Version) -> bool:
        """Whether streams can be stepped with a version."""
        return self._held.get(version.model) is version

    def add(self, version: Version) -> None:
        """Hold one more version, for streams and saved states that have it."""
        self._held.setdefault(version.model, version)

    def take_up(self, version: Version) -> None:
        """From now on streams begin with `version`."""
        self.add(version)
        self.current = self._held[version.model]
        self.forget_warmed(frozenset(key.partition for key in self.warmed))

    @property
    def spilled_bytes(self) -> int:
        """Host memory that spilled states take."""
        return sum(version.residence.spilled_bytes for version in self)

    @property
    def records_per_run(self) -> int:
        """What every version allows."""
        return min(version.records_per_run for version in self)

    def changes(self, key: StreamKey, stream: Stream, offset: int) -> bool:
        """Whether a stream changes over to the current version at its next record, which has this offset."""
        if not self.holds(stream.version):
            return True
        if stream.version is self.current or self.at_change == "finish":
            return False
        if offset < self.live_from.get(key.partition, 0):
            return False
        return self.at_change == "reset" or key in self.warmed

    def wants_warmth(self, key: StreamKey, stream: Stream) -> bool:
        """Whether a stream that is to change over waits for a stand-in."""
        if stream.version is self.current or stream.begun or key in self.warmed:
            return False
        return self.at_change == "warm_up" if self.holds(stream.version) else self._warms_absent

    def stand_in(self, key: StreamKey, stream: Stream) -> Stream | None:
        """Take the stand-in that was warmed up for a stream, if there is one."""
        warmed = self.warmed.pop(key, None)
        if warmed is None or warmed.last_offset == stream.last_offset:
            return warmed
        warmed.version.residence.leave(key, warmed)
        return None

    def forget_warmed(self, partitions: frozenset[int]) -> None:
        """Stand-ins of partitions that went away are of no use."""
        for key in [key for key in self.warmed if key.partition in partitions]:
            warmed = self.warmed.pop(key)
            if warmed is not None:
                warmed.version.residence.leave(key, warmed)


def handed_over(version: Version, stream: Stream, data: object) -> object:
    """A task's state in `version` after another version's task left `data` behind: numbering goes on, memory does not.

    Raises StateMismatch where the one cannot read the other's.
    """
    before = stream.task
    try:
        stream.task = version.task.load(data)
        return version.task.restart(stream)
    finally:
        stream.task = before
