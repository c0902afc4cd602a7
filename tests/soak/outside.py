"""The other side of a soak: who feeds as much as is answered, and who counts what is said."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from streamer.log.base import Log
from streamer.options import PipelineOptions
from streamer.records import NewRecord, TopicPartition
from streamer.worker.topics import output_topics
from tests.soak.streams import Told

AT_ONCE = 8
"""Records of a source that are fed together."""
LOOK_S = 0.05


class Feeder:
    """Feeds one pipeline from all its sources in turns, as fast as it answers. fed: records so far."""

    def __init__(
        self, log: Log, options: PipelineOptions, group: str, sources: Sequence[Iterator[NewRecord]], told: Told
    ) -> None:
        self.fed = 0
        self.told = told
        self.group, self.topic = group, options.input.topic
        self._log, self._sources = log, sources
        self._partitions = [TopicPartition(self.topic, number) for number in range(options.input.partitions)]
        self._ahead = 4 * AT_ONCE * len(sources)

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop`; what was begun is fed whole."""
        while not stop.is_set():
            if await self.left() > self._ahead:
                await asyncio.sleep(LOOK_S)
            else:
                await self._feed()

    async def left(self) -> int:
        """Records that are not answered yet."""
        return self.fed - await self.answered()

    async def answered(self) -> int:
        """Records that are answered: the group has committed beyond them."""
        committed = await self._log.committed(self.group, self._partitions)
        return sum(at.offset for at in committed.values())

    async def _feed(self) -> None:
        batches: dict[int, list[NewRecord]] = {}
        for number, source in enumerate(self._sources):
            # Streams of one kind of life follow each other in fours: each kind is in every partition.
            partition = number // 4 % len(self._partitions)
            batches.setdefault(partition, []).extend(islice(source, AT_ONCE))
        await asyncio.gather(*(self._log.append(self.topic, number, batch) for number, batch in batches.items()))
        self.fed += sum(map(len, batches.values()))


class Tap:
    """Counts what is said, by topic; what befell streams by event."""

    def __init__(self, log: Log, pipelines: Sequence[PipelineOptions]) -> None:
        self.counts: Counter[str] = Counter()
        self._log = log
        self._of = {
            TopicPartition(topic, number): (topic, topic == options.outputs.streams)
            for options in pipelines
            for topic in output_topics(options)
            for number in range(options.input.partitions)
        }

    async def run(self) -> None:
        """Count for ever."""
        async with self._log.reader(dict.fromkeys(self._of, 0)) as reader:
            while True:
                for batch in await reader.read(timeout_s=0.5):
                    topic, events = self._of[batch.partition]
                    self.counts[topic] += len(batch.records)
                    if events:
                        self.counts.update(f"{topic}:{_event(record.headers)}" for record in batch.records)


def _event(headers: Sequence[tuple[str, bytes]]) -> str:
    kind = next(value for name, value in headers if name == "ce_type")
    return kind.decode().split(".")[-2]


async def live_keys(log: Log, changelogs: Sequence[str]) -> int:
    """Keys of the changelogs that were not ended by a tombstone: states, marks and floors."""
    there = await log.topics()
    names = [TopicPartition(topic, number) for topic in changelogs for number in range(there[topic].partitions)]
    bounds = await log.offsets(names)
    keys: set[tuple[TopicPartition, bytes | None]] = set()
    async with log.reader({name: bounds[name].begin for name in names}) as reader:
        while any(reader.position(name) < bounds[name].end for name in names):
            for batch in await reader.read(timeout_s=1.0):
                for record in batch.records:
                    place = batch.partition, record.key
                    keys.discard(place) if record.value is None else keys.add(place)
    return len(keys)


def disk_mb(folder: Path) -> float:
    """What a folder takes. Files come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total / 1e6
