"""One transactional producer for each owned input partition: outputs, states and offsets in one transaction.

aiokafka 0.14 speaks version 0 of the transaction protocol: the broker does not check a member's generation (KIP-447).
What fences instead is the transactional id, which names the group and the partition and no worker: whoever starts its
producer last is the owner, and what an earlier owner left open is aborted. So an owner starts its producer first and
reads the committed offset afterwards (DESIGN.md rule 7). A producer is thrown away after any error, a lost connection
included: the client would ask again, and the first request, arriving late, would act upon the next transaction, which
has the same epoch (KIP-890): its end would commit half of it, its offset would take the next one's place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.errors import IllegalOperation, KafkaError, NodeNotReadyError, ProducerClosed
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from streamer.errors import Fenced
from streamer.log.base import Committed
from streamer.log.kafka_calm import calm
from streamer.log.kafka_connection import KafkaOptions, translating
from streamer.log.kafka_publish import Prepared, look_at, stop_producer
from streamer.records import TopicPartition

TRANSACTION_TIMEOUT_MS = 10_000
"""What a dead owner's open transaction may delay the readers of its own partition's outputs at most."""

_ONCE = (AddPartitionsToTxnRequest, AddOffsetsToTxnRequest, TxnOffsetCommitRequest, EndTxnRequest)


class Unanswered(ConnectionError):
    """A request of a transaction was sent, and its connection lost: it may still arrive."""


class _Expected(logging.Filter):
    """The client logs whatever ends a producer as a failure of its own; this one is wanted, and reported."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], Unanswered))


logging.getLogger("aiokafka.producer.sender").addFilter(_Expected())


class Transactions:
    """The producers of one member of `group`, by input partition."""

    def __init__(self, options: KafkaOptions, group: str) -> None:
        self._options = options
        self._group = group
        self._producers: dict[TopicPartition, AIOKafkaProducer] = {}
        self._retired: set[asyncio.Task[None]] = set()

    async def acquire(self, partitions: Iterable[TopicPartition]) -> None:
        """Become the owner: a new producer for each, which fences the last one and aborts what it left open.

        Raises LogUnavailable, PermissionDenied.
        """
        wanted = list(partitions)
        self.release(wanted)
        started = await asyncio.gather(*(self._started(name) for name in wanted), return_exceptions=True)
        for name, producer in zip(wanted, started, strict=True):
            if isinstance(producer, AIOKafkaProducer):
                self._producers[name] = producer
        for producer in started:
            if isinstance(producer, BaseException):
                raise producer

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """These are no longer ours, or their producers failed. What is open in them is never committed."""
        for name in partitions:
            if (producer := self._producers.pop(name, None)) is not None:
                task = asyncio.create_task(stop_producer(producer, self._options))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def stop(self) -> None:
        """Close all producers."""
        self.release(list(self._producers))
        await asyncio.gather(*self._retired)

    async def run(self, name: TopicPartition, offset: int, metadata: str, appends: Sequence[Prepared]) -> None:
        """One transaction. Raises the client's errors; nobody knows then whether it happened.

        Raises Fenced for a partition that was released meanwhile; then nothing happened.
        """
        producer = self._producers.get(name)
        if producer is None:
            raise Fenced(f"{name} went to another member: drop its state")
        try:
            await self._transact(producer, name, Committed(offset, metadata), appends)
        except (IllegalOperation, AssertionError) as error:
            if not producer._sender.sender_task.done():
                raise
            # It ended between two calls, and the later one says no more than that it does not fit its state.
            raise ProducerClosed from error

    async def _transact(
        self, producer: AIOKafkaProducer, name: TopicPartition, at: Committed, appends: Sequence[Prepared]
    ) -> None:
        await producer.begin_transaction()
        producer._txn_manager._transaction_waiter.add_done_callback(look_at)
        await producer.send_offsets_to_transaction({ClientPartition(*name): (at.offset, at.metadata)}, self._group)
        sent = []
        for append in appends:
            topic, partition = append.partition
            for batch in append.batches:
                future = await producer.send_batch(batch, topic, partition=partition)
                future.add_done_callback(look_at)
                sent.append(future)
        for future in sent:  # a failed send would not fail the commit
            await future
        await producer.commit_transaction()

    async def _started(self, name: TopicPartition) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options.connection(),
            transactional_id=f"{self._group}.{name.topic}-{name.partition}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )
        calm(producer.client)
        with translating(self._options, f"begin transactions for {name}"):
            try:
                async with asyncio.timeout(self._options.request_timeout_s):  # the client would try for ever
                    await producer.start()
            except BaseException:
                with suppress(KafkaError):
                    await producer.stop()
                raise
        _ask_once(producer)
        return producer


def _ask_once(producer: AIOKafkaProducer) -> None:
    """A request of a transaction that was not answered ends the producer instead of being sent again."""
    send = producer.client.send

    async def send_once(node: int, request: Any, **how: Any) -> Any:
        try:
            return await send(node, request, **how)
        except NodeNotReadyError:  # it was not sent
            raise
        except KafkaError as error:
            if isinstance(request, _ONCE):  # the client tries again after each error that is one of its own
                raise Unanswered(f"{type(request).__name__} was not answered: {error}") from error
            raise

    producer.client.send = send_once
