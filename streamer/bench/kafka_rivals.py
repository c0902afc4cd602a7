"""The rivals of W3: loops over the bare client that publish streamer's exact bytes, headers included, and do no work.

They are given every answer ready made, so that they pay for nothing but reading and sending.
"""

from __future__ import annotations

import asyncio
import importlib
import time
import uuid
from collections.abc import Sequence
from typing import Any

from streamer.records import Headers, NewRecord, RecordBatch, TopicPartition

# The client itself is the rival here. It is loaded by name: everything else of streamer reaches it through the log.
_CLIENT = "aiokafka"
_BATCH_BYTES = 1 << 18
_POLL_RECORDS = 8_192

Answers = dict[int, list[NewRecord]]
"""By partition: what streamer answered to the input's record at each offset."""


async def answers_of(log: Any, topic: str, partitions: int, records: int) -> Answers:
    """What a run of the worker published, in the order of the input's offsets."""
    answers: Answers = {p: [] for p in range(partitions)}
    begin = {TopicPartition(topic, p): 0 for p in range(partitions)}
    count = 0
    async with log.reader(begin) as reader:
        while count < records:
            batches: list[RecordBatch] = await reader.read(timeout_s=1.0)
            for batch in batches:
                count += len(batch.records)
                answers[batch.partition.partition] += [
                    NewRecord(r.key, r.value, list(r.headers), r.timestamp_ms) for r in batch.records
                ]
    for part in answers.values():
        part.sort(key=_caused_by)
    return answers


def _caused_by(answer: NewRecord) -> int:
    """The input offset in the answer's `ce_id`: topic/partition/offset/kind/n."""
    return int(_header(answer.headers, "ce_id").split(b"/")[-3])


def _header(headers: Headers, name: str) -> bytes:
    return next(value for key, value in headers if key == name)


async def send_loop(bootstrap: str, source: str, target: str, answers: Answers) -> float:
    """getmany, then one send() per record. Returns records/s, from the first poll that brought any."""
    async with _Loop(bootstrap, source) as loop:
        while polled := await loop.poll():
            futures = []
            for partition, records in polled.items():
                ready = answers[partition.partition]
                for record in records:
                    a = ready[record.offset]
                    futures.append(
                        await loop.producer.send(
                            target, key=a.key, value=a.value, headers=a.headers, timestamp_ms=a.timestamp_ms
                        )
                    )
            await asyncio.gather(*futures)
        return loop.records_per_s


async def batch_loop(bootstrap: str, source: str, target: str, answers: Answers) -> float:
    """getmany, then create_batch and send_batch: the client's limit. Returns records/s."""
    async with _Loop(bootstrap, source) as loop:
        while polled := await loop.poll():
            futures = []
            for partition, records in polled.items():
                ready = [answers[partition.partition][record.offset] for record in records]
                futures += await _send_batches(loop.producer, target, partition.partition, ready)
            await asyncio.gather(*futures)
        return loop.records_per_s


async def _send_batches(producer: Any, topic: str, partition: int, ready: Sequence[NewRecord]) -> list[Any]:
    futures = []
    builder = producer.create_batch()
    for a in ready:
        row = {"key": a.key, "value": a.value, "headers": list(a.headers), "timestamp": a.timestamp_ms}
        if builder.append(**row) is None:
            futures.append(await producer.send_batch(builder, topic, partition=partition))
            builder = producer.create_batch()
            builder.append(**row)
    futures.append(await producer.send_batch(builder, topic, partition=partition))
    return futures


class Hidden:
    """Input that nobody can read before `show`: an open transaction. Not a rival, but made with the bare client too."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        client = importlib.import_module(_CLIENT)
        self._topic = topic
        self._producer = client.AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=f"hidden-{topic}",
            transaction_timeout_ms=600_000,
            max_batch_size=_BATCH_BYTES,
        )

    async def __aenter__(self) -> Hidden:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def write(self, records: Sequence[Sequence[NewRecord]]) -> None:
        """Write each partition's records."""
        await self._producer.begin_transaction()
        for number, part in enumerate(records):
            for future in await _send_batches(self._producer, self._topic, number, part):
                await future

    async def show(self) -> None:
        """From now on they can be read."""
        await self._producer.commit_transaction()


class _Loop:
    """A consumer and a producer with what makes them fastest, and the clock between first and last poll."""

    def __init__(self, bootstrap: str, source: str) -> None:
        client = importlib.import_module(_CLIENT)
        self._consumer = client.AIOKafkaConsumer(
            source,
            bootstrap_servers=bootstrap,
            group_id=f"bare-{uuid.uuid4()}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        self.producer = client.AIOKafkaProducer(
            bootstrap_servers=bootstrap, linger_ms=5, max_batch_size=_BATCH_BYTES, enable_idempotence=True
        )
        self._start_s = 0.0
        self._records = 0
        self._ends: dict[Any, int] = {}

    @property
    def records_per_s(self) -> float:
        return self._records / (time.perf_counter() - self._start_s)

    async def __aenter__(self) -> _Loop:
        await self._consumer.start()
        await self.producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self.producer.stop()

    async def poll(self) -> dict[Any, Sequence[Any]]:
        """The next records by partition; empty when the whole input was read."""
        if self._ends and self._records >= sum(self._ends.values()):
            return {}
        while not (polled := await self._consumer.getmany(timeout_ms=500, max_records=_POLL_RECORDS)):
            pass
        if not self._start_s:
            self._start_s = time.perf_counter()
            self._ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        self._records += sum(map(len, polled.values()))
        return dict(polled)
