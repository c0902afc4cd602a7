"""How far stored data has been fed: what lets a feed of the same files skip what is done and continue what is not.

It lies in the compacted topic `feeds`: key is the JSON list [topic, stream, session], value a `Progress` as JSON. It is
written after the records it speaks of, so a crash in between feeds those again; their `x-seq` tells the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from streamer.errors import TopicMismatch
from streamer.log.base import Log, TopicSpec
from streamer.records import NewRecord, Record, TopicPartition

FEEDS_TOPIC = "feeds"
FEEDS_SPEC = TopicSpec(FEEDS_TOPIC, partitions=1, compact=True)


class Run(NamedTuple):
    """One session of a stream."""

    stream: str
    session: str


class Progress(msgspec.Struct, frozen=True):
    """How far a run has got. next_seq: the first record not yet appended. start_ms: the time of its first record."""

    next_seq: int
    done: bool = False
    start_ms: int | None = None


@runtime_checkable
class Resumable(Protocol):
    """A feed of stored data, whose sessions are named by their content."""

    def resume(self, progress: Mapping[Run, Progress]) -> None:
        """Skip what these runs have fed already. Called once, before `batches`."""
        ...


_KEY = msgspec.json.Decoder(tuple[str, str, str])
_VALUE = msgspec.json.Decoder(Progress)


class ProgressTopic:
    """The `feeds` topic, seen for one target topic."""

    def __init__(self, log: Log, target: str) -> None:
        self._log = log
        self._target = target

    async def load(self) -> dict[Run, Progress]:
        """All runs into the target topic; the topic is created when it is missing. Raises TopicMismatch, LogError."""
        found = (await self._log.topics()).get(FEEDS_TOPIC)
        if found is None:
            await self._log.create_topics([FEEDS_SPEC])
        elif not found.compact:
            raise TopicMismatch(f"topic {FEEDS_TOPIC} must have cleanup.policy=compact: it says what has been fed")
        runs: dict[Run, Progress] = {}
        for record in await self._read_all(found.partitions if found else FEEDS_SPEC.partitions):
            if record.key is None:
                continue
            topic, stream, session = _KEY.decode(record.key)
            if topic != self._target:
                continue
            if record.value is None:
                runs.pop(Run(stream, session), None)
            else:
                runs[Run(stream, session)] = _VALUE.decode(record.value)
        return runs

    async def write(self, runs: Mapping[Run, Progress]) -> None:
        """Make the progress of these runs durable."""
        records = [
            NewRecord(msgspec.json.encode((self._target, *run)), msgspec.json.encode(progress))
            for run, progress in runs.items()
        ]
        if records:
            await self._log.append(FEEDS_TOPIC, 0, records)

    async def _read_all(self, partitions: int) -> list[Record]:
        names = [TopicPartition(FEEDS_TOPIC, p) for p in range(partitions)]
        ranges = await self._log.offsets(names)
        records: list[Record] = []
        async with self._log.reader({name: ranges[name].begin for name in names}) as reader:
            while any(reader.position(name) < ranges[name].end for name in names):
                for batch in await reader.read(timeout_s=1.0):
                    records.extend(batch.records)
        return records
