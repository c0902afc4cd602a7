"""Reading from Kafka over aiokafka 0.14: records as ours, and positions that pass what brings no record.

Positions are set by us, never by the client's reset policy, so that an offset out of range is an error. A position
passes transaction markers and holes even where they bring no record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition

from streamer.log.base import DEFAULT_MAX_RECORDS
from streamer.log.kafka_calm import calm, stop_client
from streamer.log.kafka_connection import KafkaOptions, translating
from streamer.log.kafka_records import hand_out_ours
from streamer.log.kafka_topics import KafkaTopics
from streamer.records import RecordBatch, TopicPartition

# A fetch that brings only markers moves a position without waking anybody: look this often.
LOOK_S = 0.25


class Fetching:
    """What readers and members share: records from the client, and positions that pass markers."""

    def __init__(self, client: AIOKafkaConsumer, options: KafkaOptions) -> None:
        self.client = client
        self.positions: dict[TopicPartition, int] = {}
        self._options = options

    async def fetch(self, max_records: int, timeout_s: float) -> list[RecordBatch]:
        """Records that came, and what moved without any. Raises OffsetGone, PermissionDenied, LogUnavailable."""
        with translating(self._options, f"read {', '.join(map(str, self.positions))}"):
            fetched = await self.client.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            return self._batches(fetched)

    def _batches(self, fetched: Mapping[ClientPartition, Sequence[Any]]) -> list[RecordBatch]:
        batches = []
        for name, position in self.positions.items():
            records = fetched.get(ClientPartition(*name), ())
            next_offset = self._position(name)
            if records or next_offset != position:
                self.positions[name] = next_offset
                batches.append(RecordBatch(name, records, next_offset))
        return batches

    def seek(self, name: TopicPartition, offset: int) -> None:
        """Read `name` from `offset` next."""
        self.client.seek(ClientPartition(*name), offset)
        self.positions[name] = offset

    def _position(self, name: TopicPartition) -> int:
        # The public position() is a coroutine that would wait; ours is always set.
        assignment = self.client._subscription.subscription.assignment
        return int(assignment.state_value(ClientPartition(*name)).position)


class KafkaReader:
    """Reads given partitions in no group. Sees only what is committed (`read_committed`)."""

    def __init__(self, options: KafkaOptions, topics: KafkaTopics, start: Mapping[TopicPartition, int]) -> None:
        self._options = options
        self._topics = topics
        self._start = dict(start)
        self._fetching: Fetching | None = None

    async def __aenter__(self) -> Self:
        for topic in {name.topic for name in self._start}:
            await self._topics.info(topic)
        client = new_client(self._options)
        self._fetching = Fetching(client, self._options)
        with translating(self._options, "connect"):
            await start_client(client)
            client.assign([ClientPartition(*name) for name in self._start])
        for name, offset in self._start.items():
            self._fetching.seek(name, offset)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fetching is not None:
            await stop_client(self._fetching.client)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        """At most `max_records` over all partitions. Raises OffsetGone, PermissionDenied, LogUnavailable."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            left_s = deadline_s - loop.time()
            batches = await self._open().fetch(max_records, max(0.0, min(left_s, LOOK_S)))
            if batches or left_s <= 0:
                return batches

    def position(self, partition: TopicPartition) -> int:
        """The offset the next read starts at; beyond markers once they were passed."""
        return self._open().positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read `partition` from `offset` next."""
        self._open().seek(partition, offset)

    def _open(self) -> Fetching:
        if self._fetching is None:
            raise RuntimeError("a KafkaReader is an async context manager: enter it first")
        return self._fetching


def new_client(options: KafkaOptions, **more: Any) -> AIOKafkaConsumer:
    """A client that reads settled data, commits nothing by itself and resets no position by itself."""
    return AIOKafkaConsumer(
        **options.connection(),
        **more,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=options.partition_fetch_bytes,
    )


async def start_client(client: AIOKafkaConsumer, *, columns: bool = False) -> None:
    """Start, or close again: a client that failed to start warns when it is collected. columns: see `hand_out_ours`."""
    calm(client._client)
    try:
        await client.start()
        hand_out_ours(client, columns=columns)
        await asyncio.sleep(0)  # a task of the client that is stopped before its first step would cancel stop() instead
    except BaseException:
        await stop_client(client)
        raise
