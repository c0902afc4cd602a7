"""Publishing whole batches to Kafka: record batches are built here, sent by an idempotent producer, and awaited.

Appends to one partition that come while another is on its way share the next batch. `send()` per record would cost
five to seven times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from streamer.columns import NewParts
from streamer.errors import LogError
from streamer.log.base import TopicInfo
from streamer.log.batching import check_measured, measure
from streamer.log.kafka_calm import calm
from streamer.log.kafka_connection import Compression, KafkaOptions, translating
from streamer.log.kafka_topics import KafkaTopics
from streamer.log.topics import FRAMING_BYTES, topic_missing
from streamer.records import Append, NewRecord, TopicPartition

_BATCH_BYTES = 768 * 1024
_CODECS: dict[Compression | None, int] = {
    None: DefaultRecordBatch.CODEC_NONE,
    "gzip": DefaultRecordBatch.CODEC_GZIP,
    "snappy": DefaultRecordBatch.CODEC_SNAPPY,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}


class Prepared(NamedTuple):
    """An append that was checked, its record batches built. To be published once."""

    partition: TopicPartition
    records: Sequence[NewRecord]
    batches: list[BatchBuilder]


@dataclass(slots=True, eq=False)
class _Waiting:
    """An append on its way, and who waits for its first offset."""

    append: Prepared
    done: asyncio.Future[int]


class KafkaPublisher:
    """Appends batches durably (acks=all), each whole and in order, retries without doubling."""

    def __init__(self, options: KafkaOptions, topics: KafkaTopics) -> None:
        self._options = options
        self._topics = topics
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[TopicPartition, list[_Waiting]] = {}
        self._flushers: dict[TopicPartition, asyncio.Task[None]] = {}
        self._retired: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Wait for what is on its way and close the producers."""
        await asyncio.gather(*self._flushers.values())
        if self._producer is not None:
            self._retire(self._producer)
        await asyncio.gather(*self._retired)

    async def prepare(self, appends: Sequence[Append], *, transactional: bool = False) -> list[Prepared]:
        """Check all and build their batches; those without records are left out. Writes nothing.

        transactional: the batches say that they belong to a transaction, or readers would not wait for its end.
        Raises what an append would: TopicMissing, RecordTooLarge, PermissionDenied.
        """
        prepared: list[Prepared] = []
        for topic, number, records in appends:
            partition, info = TopicPartition(topic, number), await self._topics.info(topic)
            if not 0 <= number < info.partitions:
                raise topic_missing(partition, f"Kafka at {self._options.bootstrap_servers}")
            if records:
                batches = self._build(records, _batch_bytes(info), transactional)
                if _may_break_rules(info, batches):
                    check_measured(info, measure(records))
                prepared.append(Prepared(partition, records, batches))
        return prepared

    async def publish(self, appends: Sequence[Prepared]) -> list[int]:
        """Append all at once; the first offset of every one.

        Raises the first error, after all have ended: LogUnavailable, PermissionDenied, TopicMissing.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(append, loop.create_future()) for append in appends]
        for one in waiting:
            partition = one.append.partition
            self._waiting.setdefault(partition, []).append(one)
            if partition not in self._flushers:
                self._flushers[partition] = asyncio.create_task(self._flush(partition))
        results = await asyncio.gather(*(one.done for one in waiting), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [offset for offset in results if isinstance(offset, int)]

    async def _flush(self, partition: TopicPartition) -> None:
        """Publish what waits for this partition until nothing waits."""
        try:
            while waiting := self._waiting.pop(partition, None):
                try:
                    await self._send(partition, waiting)
                except (LogError, TypeError, ValueError, OverflowError) as error:  # or a record not made of bytes
                    for one in waiting:
                        if not one.done.done():
                            one.done.set_exception(error)
        finally:
            del self._flushers[partition]

    async def _send(self, partition: TopicPartition, waiting: Sequence[_Waiting]) -> None:
        doing = f"write to topic {partition.topic!r}"
        info = await self._topics.info(partition.topic)
        producer = await self._started()
        builders = [batch for one in waiting for batch in one.append.batches]
        columns = any(isinstance(one.append.records, NewParts) for one in waiting)
        if len(waiting) > 1 and not columns:  # what was built for each is too small to be sent by itself
            builders = self._build([record for one in waiting for record in one.append.records], _batch_bytes(info))
        try:
            with translating(self._options, doing):
                async with asyncio.timeout(1.5 * self._options.request_timeout_s):
                    sent = await self._deliver(producer, partition, builders)
        except LogError as error:
            self._give_up(producer)
            if isinstance(error.__cause__, UnknownTopicOrPartitionError):
                self._topics.forget(partition.topic)
            raise
        offsets = [
            first + i for first, builder in zip(sent, builders, strict=True) for i in range(builder.record_count())
        ]
        begin = 0
        for one in waiting:
            if not one.done.done():  # else its waiter was cancelled
                one.done.set_result(offsets[begin])
            begin += len(one.append.records)

    async def _deliver(
        self, producer: AIOKafkaProducer, partition: TopicPartition, builders: Sequence[BatchBuilder]
    ) -> list[int]:
        """Hand over every batch, then await every one: the first offset of each."""
        futures = []
        for builder in builders:
            future = await producer.send_batch(builder, partition.topic, partition=partition.partition)
            future.add_done_callback(look_at)
            futures.append(future)
        return [(await future).offset for future in futures]

    def _build(self, records: Sequence[NewRecord], limit_bytes: int, transactional: bool = False) -> list[BatchBuilder]:
        """As few record batches as hold all `records`, none above `limit_bytes`."""
        if isinstance(records, NewParts) and self._options.compression is None:
            from streamer.log import kafka_batches  # compiled code: loaded by whom it serves

            return [*kafka_batches.build(records.parts, limit_bytes, transactional=transactional)]
        codec = _CODECS[self._options.compression]
        builders = [BatchBuilder(limit_bytes, codec, is_transactional=int(transactional))]
        append = builders[-1].append
        for key, value, given_headers, timestamp_ms in records:
            headers = given_headers if type(given_headers) is list else list(given_headers)  # the client insists
            if append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:  # full
                builders.append(BatchBuilder(limit_bytes, codec, is_transactional=int(transactional)))
                append = builders[-1].append
                append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
        return builders

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._options.connection(), enable_idempotence=True)
                calm(producer.client)
                try:
                    with translating(self._options, "connect"):
                        async with asyncio.timeout(self._options.request_timeout_s):  # the client would try for ever
                            await producer.start()
                except LogError:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    def _give_up(self, producer: AIOKafkaProducer) -> None:
        """After an error the producer's sequence numbers have a hole: the next append takes a new producer."""
        if self._producer is producer:
            self._producer = None
            self._retire(producer)

    def _retire(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(stop_producer(producer, self._options))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


async def stop_producer(producer: AIOKafkaProducer, options: KafkaOptions) -> None:
    """Flush and close; by force where no broker takes what is left (whoever waited for it has been told).

    Raises nothing that its last requests raise: nobody waits for their answers.
    """
    try:
        async with asyncio.timeout(options.request_timeout_s):
            await producer.stop()
    except (TimeoutError, KafkaError):
        sender = producer._sender.sender_task
        sender.cancel()  # it would try for ever
        await asyncio.wait({sender}, timeout=options.request_timeout_s)  # its requests may still connect
        await producer.client.close()


def _batch_bytes(topic: TopicInfo) -> int:
    return min(_BATCH_BYTES, topic.max_record_bytes) + FRAMING_BYTES


def _may_break_rules(topic: TopicInfo, batches: Sequence[BatchBuilder]) -> bool:
    """Whether a look at every record is due: none is larger than the batch that it lies in."""
    return topic.compact or max(batch.size() for batch in batches) > topic.max_record_bytes


def look_at(future: asyncio.Future[Any]) -> None:
    """Take note of a failure that an earlier one has hidden, so that asyncio does not warn of it."""
    if not future.cancelled():
        future.exception()
