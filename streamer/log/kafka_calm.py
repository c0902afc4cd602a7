"""Clients of Kafka while no broker answers: they ask less and less often, and can be stopped all the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from streamer.log.kafka_connection import RETRY_BACKOFF_MS

_LONGEST_S = 0.5


def calm(client: Any) -> None:
    """Let a client wait longer each time before it tries a broker again that it could not connect to.

    client: the one inside a producer, a consumer or an admin (aiokafka 0.14). By itself it would try from all its loops
    at once, every `RETRY_BACKOFF_MS`, and log each attempt.
    """
    connect = client._get_conn
    failures: Counter[Any] = Counter()

    async def connect_calmly(node: Any, **how: Any) -> Any:
        connection = await connect(node, **how)
        if connection is None:
            failures[node] = min(failures[node] + 1, 16)
            await asyncio.sleep(min(_LONGEST_S, RETRY_BACKOFF_MS / 1000 * 2 ** failures[node]))
        else:
            failures.pop(node, None)
        return connection

    client._get_conn = connect_calmly


async def stop_client(client: Any) -> None:
    """Stop a consumer. One that waits to repeat a fetch ends by the cancellation that it meant for its own task."""
    stopping = asyncio.create_task(client.stop())
    await asyncio.wait({stopping})
    if not stopping.cancelled():
        stopping.result()
        return
    fetches = set(client._fetcher._pending_tasks)
    for fetch in fetches:
        fetch.cancel()
    await asyncio.gather(*fetches, return_exceptions=True)
    await client._client.close()
