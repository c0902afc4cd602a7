"""The live streams of one pipeline: their host and recurrent states, saved and restored as one unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamer.codecs.resample import ResamplerState
from streamer.errors import StateMismatch
from streamer.tasks.base import Task
from streamer.worker import snapshot
from streamer.worker.residence import Residence
from streamer.worker.results import Copy, StreamKey
from streamer.worker.slots import SlotPool
from streamer.worker.snapshot import Mark, Snapshot
from streamer.worker.stream import Stream


class StreamTable:
    """Owned by the engine's thread. marks: streams that are gone, or were refused, up to a position.

    model: `name-version@fingerprint`, what states are valid for.
    """

    def __init__(self, pool: SlotPool, task: Task, model: str) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.marks: dict[StreamKey, Mark] = {}
        self.residence: Residence[StreamKey] = Residence(pool)
        self._task = task
        self._model = model

    def position(self, key: StreamKey) -> int:
        """Every record of this stream with a lower offset is contained in its state, or was settled without one."""
        if (stream := self.streams.get(key)) is not None:
            return stream.position
        mark = self.marks.get(key)
        return 0 if mark is None else mark.position

    def remove(self, key: StreamKey) -> None:
        """Forget a live stream and its recurrent state."""
        self.residence.leave(key, self.streams.pop(key))

    def leave_mark(self, key: StreamKey, mark: Mark) -> Copy:
        """Note that a stream has no state up to a position; returns what makes that durable (rule 5)."""
        self.marks[key] = mark
        return Copy(key, state_key(key), mark.position, snapshot.dump_mark(mark, self._model), False)

    def forget_marks(self, gone: Iterable[tuple[StreamKey, int]]) -> None:
        """Marks that became tombstones are needed no more, unless a later one took their place."""
        for key, position in gone:
            if (mark := self.marks.get(key)) is not None and mark.position == position:
                del self.marks[key]

    def idle_since(self, time_ms: int, partition: int) -> list[StreamKey]:
        """Streams of a partition whose last record is older than this, and stepped whole."""
        live = ((k, s) for k, s in self.streams.items() if k.partition == partition and not s.begun)
        return [k for k, s in live if s.last_ms < time_ms]

    def copies(self, keys: Iterable[StreamKey]) -> list[Copy]:
        """The whole state of streams as of now, taken off the device in one copy.

        Unknown ones are passed over, and those that are in the middle of a record: their time comes.
        """
        live = [(key, stream) for key in keys if (stream := self.streams.get(key)) is not None and not stream.begun]
        states = self.residence.states([stream for _, stream in live])
        return [
            Copy(key, state_key(key), stream.position, self._dump(stream, leaves), True)
            for (key, stream), leaves in zip(live, states, strict=True)
        ]

    def _dump(self, stream: Stream, leaves: Any) -> bytes:
        resampler = None if stream.resampler is None else stream.resampler.to_arrays()
        return snapshot.dump(stream, leaves, self._task.dump(stream.task), resampler, self._model)

    def restore(self, partition: int, key: bytes, data: bytes) -> Snapshot:
        """Take in a saved state. Raises StateMismatch; nothing was taken in then."""
        restored, task, resampler = snapshot.load(data, self._model, self.residence.pool.layout())
        identity = StreamKey(partition, key.decode(errors="replace"))
        stream = restored.stream
        if stream is None:
            self.marks[identity] = restored.mark
            return restored
        if stream.partition != partition or stream.id != identity.id:
            raise StateMismatch(f"saved state of {stream.id!r} lies under the key {identity.id!r}")
        stream.task = self._task.load(task)
        if resampler is not None:
            stream.resampler = _resampler_state(resampler)
        self.streams[identity] = stream
        self.residence.adopt(stream)
        return restored

    def drop_partitions(self, partitions: frozenset[int]) -> None:
        """Forget every stream of partitions that were lost."""
        for key in [k for k in self.streams if k.partition in partitions]:
            self.remove(key)
        self.marks = {k: m for k, m in self.marks.items() if k.partition not in partitions}

    def drop_all(self) -> None:
        """Forget every stream: another owner may have gone on with them."""
        self.drop_partitions(frozenset(k.partition for k in (*self.streams, *self.marks)))


def state_key(key: StreamKey) -> bytes:
    """The changelog key of a stream."""
    return key.id.encode()


def _resampler_state(data: Any) -> ResamplerState:
    try:
        return ResamplerState.from_arrays(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateMismatch(f"saved resampler state: {error}") from error
