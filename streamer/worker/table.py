"""The live streams of one pipeline: their host and recurrent states, saved and restored as one unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from streamer.errors import StateMismatch
from streamer.records import Record
from streamer.worker import snapshot
from streamer.worker.dormant import Dormant
from streamer.worker.header import Header, Known
from streamer.worker.results import Copy, StreamKey
from streamer.worker.reviving import revive
from streamer.worker.slots import HostState
from streamer.worker.snapshot import Mark
from streamer.worker.stream import Stream
from streamer.worker.version import Version, Versions, absent


class StreamTable:
    """Owned by the engine's thread. streams: those that are awake; dormant: live ones that nothing has come for yet
    since their partition was opened; marks: streams that are gone, or were refused, up to a position.

    versions: what streams may be stepped with; a saved state's header names one of them.
    """

    def __init__(self, versions: Versions) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.marks: dict[StreamKey, Mark] = {}
        self.dormant = Dormant()
        self._versions = versions

    def __len__(self) -> int:
        """Live streams, awake or dormant."""
        return len(self.streams) + len(self.dormant)

    @property
    def host_bytes(self) -> int:
        """Host memory that recurrent states take."""
        return self._versions.spilled_bytes + self.dormant.nbytes

    def position(self, key: StreamKey) -> int:
        """Every record of a stream that is not dormant with a lower offset is contained in its state, or was settled
        without one."""
        if (stream := self.streams.get(key)) is not None:
            return stream.position
        mark = self.marks.get(key)
        return 0 if mark is None else mark.position

    def remove(self, key: StreamKey) -> None:
        """Forget a live stream and its recurrent state."""
        stream = self.streams.pop(key)
        stream.version.residence.leave(key, stream)

    def leave_mark(self, key: StreamKey, mark: Mark) -> Copy:
        """Note that a stream has no state up to a position; returns what makes that durable (rule 5)."""
        self.marks[key] = mark
        return Copy(key, state_key(key), mark.position, self._dump_mark(mark), False)

    def forget_marks(self, gone: Iterable[tuple[StreamKey, int]]) -> None:
        """Marks that became tombstones are needed no more, unless a later one took their place."""
        for key, position in gone:
            if (mark := self.marks.get(key)) is not None and mark.position == position:
                del self.marks[key]

    def idle_since(self, time_ms: int, partition: int) -> list[StreamKey]:
        """Streams of a partition that are awake, whose last record is older than this, and stepped whole."""
        live = ((k, s) for k, s in self.streams.items() if k.partition == partition and not s.begun)
        return [k for k, s in live if s.last_ms < time_ms]

    def coldest(self, busy: Iterable[StreamKey]) -> StreamKey | None:
        """The live stream whose last record is the oldest, of those that are not busy or in the middle of a record."""
        apart = frozenset(busy)
        awake = ((s.last_ms, key) for key, s in self.streams.items() if not s.begun and key not in apart)
        coldest = [found for found in (min(awake, default=None), self.dormant.coldest()) if found is not None]
        return min(coldest)[1] if coldest else None

    def cold(self, partition: int, most: int) -> list[StreamKey]:
        """Up to `most` streams of a partition that are to change over and wait for a stand-in."""
        waits = self._versions.wants_warmth
        cold = (key for key, stream in self.streams.items() if key.partition == partition and waits(key, stream))
        return list(islice(cold, most))

    def hosts(self, keys: Iterable[StreamKey]) -> list[Stream]:
        """The host's part of streams as it is now; of those in the middle of a record it is not true."""
        return [replace(stream) for key in keys if (stream := self.streams.get(key)) is not None and not stream.begun]

    def copies(self, keys: Iterable[StreamKey]) -> list[Copy]:
        """The whole state of streams as of now, taken off the device in one copy.

        Unknown ones are passed over, and those that are in the middle of a record: their time comes.
        """
        live = [(key, stream) for key in keys if (stream := self.streams.get(key)) is not None and not stream.begun]
        states = self._states([stream for _, stream in live])
        return [
            Copy(key, state_key(key), stream.position, self._dump(stream, leaves), True)
            for (key, stream), leaves in zip(live, states, strict=True)
        ]

    def _states(self, streams: Sequence[Stream]) -> list[HostState | None]:
        """The recurrent states, off each version's device in one copy."""
        states: dict[int, HostState | None] = {}
        for version in self._versions:
            mine = [stream for stream in streams if stream.version is version]
            states |= zip(map(id, mine), version.residence.states(mine), strict=True)
        return [states.get(id(stream)) for stream in streams]

    def _dump_mark(self, mark: Mark) -> bytes:
        writer = self._versions.current
        return snapshot.dump_mark(mark, writer.model, writer.numerics)

    def _dump(self, stream: Stream, leaves: HostState | None) -> bytes:
        resampler = None if stream.resampler is None else stream.resampler.to_arrays()
        version = stream.version
        return snapshot.dump(
            stream,
            leaves,
            version.task.dump(stream.task),
            resampler,
            version.model,
            version.numerics,
            compress=version.compress_states,
        )

    def lay_down(self, key: StreamKey, record: Record, fitting: Known) -> Mark | None:
        """Take note of what was saved of a stream: a mark counts at once, a state lies dormant until `wake`.

        fitting: headers whose states fit; the caller keeps it while the versions stay. Raises StateMismatch where that
        is told without looking into a state; nothing was noted then.
        """
        data = record.value or b""
        if not fitting.has(data):
            header = snapshot.peek(data)
            if header.kind == "mark":
                self.marks[key] = mark = snapshot.load_mark(data)
                return mark
            version = self._version_of(header)
            snapshot.check_writer(header, version.model, version.exact_numerics)
            fitting.learn(data)
        self.dormant.lay(key, record)
        return None

    def wake(self, key: StreamKey) -> None:
        """Take a dormant stream in, if it is one. Raises StateMismatch; the stream is gone then."""
        if (record := self.dormant.take(key)) is None:
            return
        data = record.value or b""
        version = self._version_of(snapshot.peek(data))
        self.streams[key] = stream = revive(key, data, version)
        version.residence.adopt(stream)

    def take_in_without(self, key: StreamKey, record: Record) -> None:
        """Take in a stream whose recurrent state no version at hand can go on with. Raises StateMismatch."""
        header = snapshot.peek(record.value or b"")
        stream, task = snapshot.load_host(record.value or b"")
        if (stream.partition, stream.id) != key:
            raise StateMismatch(f"saved state of {stream.id!r} in partition {stream.partition} lies under {key}")
        stream.version = absent(header.model, self._versions.current)
        stream.task = task
        self.streams[key] = stream

    def _version_of(self, header: Header) -> Version:
        return self._versions.of(header.model) or self._versions.current

    def drop_partitions(self, partitions: frozenset[int]) -> None:
        """Forget every stream of partitions that were lost."""
        for key in [k for k in self.streams if k.partition in partitions]:
            self.remove(key)
        self.dormant.drop(partitions)
        self.marks = {k: m for k, m in self.marks.items() if k.partition not in partitions}
        self._versions.forget_warmed(partitions)

    def drop_all(self) -> None:
        """Forget every stream: another owner may have gone on with them."""
        self.drop_partitions(frozenset(k.partition for k in (*self.streams, *self.marks)) | self.dormant.partitions)


def state_key(key: StreamKey) -> bytes:
    """The changelog key of a stream."""
    return key.id.encode()
