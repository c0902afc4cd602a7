"""W4's rival: the path of a record without a model. What comes in goes out in transactions, one producer a partition.

The same client, intervals and transactions as the worker's: read, and every interval one transaction a partition with
the answers and the offset. An answer is as large as a partial transcript, headers included.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from streamer.log.kafka_connection import RETRY_BACKOFF_MS

_CLIENT = "aiokafka"
_POLL_MS = 200
_ANSWER = b'{"stream":"speaker-00","segment":0,"revision":1234,"text":"' + 40 * b"a" + b'","start_s":0.1,"end_s":1.2}'
_HEADERS = [(f"ce_{name}", 20 * b"a") for name in ("specversion", "source", "type", "subject", "time", "model")]


@asynccontextmanager
async def echoing(bootstrap: str, source: str, target: str, partitions: int, interval_s: float) -> AsyncIterator[None]:
    """Answer every record of `source` in the same partition of `target`; `ce_id` is its offset."""
    client = importlib.import_module(_CLIENT)
    group = f"echo-{source}"
    consumer = client.AIOKafkaConsumer(
        source, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    producers = [
        client.AIOKafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=f"{group}-{n}", retry_backoff_ms=RETRY_BACKOFF_MS
        )
        for n in range(partitions)
    ]
    for each in (consumer, *producers):
        await each.start()
    waiting: list[list[Any]] = [[] for _ in range(partitions)]
    loops = [
        asyncio.create_task(_read(consumer, waiting)),
        *(
            asyncio.create_task(_answer(client, producers[n], group, source, target, n, waiting[n], interval_s))
            for n in range(partitions)
        ),
    ]
    try:
        yield
    finally:
        ended = [task for task in loops if task.done()]
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for each in (consumer, *producers):
            with suppress(Exception):  # a transaction may have been under way
                await each.stop()
    for task in ended:  # a loop that failed echoed nothing
        task.result()


async def _read(consumer: Any, waiting: Sequence[list[Any]]) -> None:
    while True:
        for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
            waiting[partition.partition].extend(records)


async def _answer(
    client: Any, producer: Any, group: str, source: str, target: str, number: int, waiting: list[Any], interval_s: float
) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if not waiting:
            continue
        records, waiting[:] = list(waiting), []
        await producer.begin_transaction()
        offset = {client.TopicPartition(source, number): records[-1].offset + 1}
        await producer.send_offsets_to_transaction(offset, group)
        batch = producer.create_batch()
        for record in records:
            headers = [*_HEADERS, ("ce_id", str(record.offset).encode())]
            batch.append(key=record.key, value=_ANSWER, timestamp=record.timestamp, headers=headers)
        await (await producer.send_batch(batch, target, partition=number))
        await producer.commit_transaction()
