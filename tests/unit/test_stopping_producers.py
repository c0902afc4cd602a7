"""A producer that is given up is closed whatever becomes of its last requests."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamer.log.kafka_connection import KafkaOptions
from streamer.log.kafka_publish import stop_producer


class Client:
    """Knows whether it was closed."""

    closed = False

    async def close(self) -> None:
        self.closed = True


class Sender:
    """The client's loop, which goes on until it is cancelled."""

    def __init__(self) -> None:
        self.sender_task = asyncio.create_task(asyncio.Event().wait())


class Producer:
    """A producer as far as closing it by force needs one. error: what stopping it in order raises."""

    def __init__(self, error: Exception) -> None:
        self.client, self._sender, self._error = Client(), Sender(), error

    async def stop(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [KafkaError("a coordinator was not found"), TimeoutError()], ids=["failed", "late"])
async def test_a_producer_whose_end_fails_is_closed_by_force(error: Exception) -> None:
    producer: Any = Producer(error)
    await stop_producer(cast(AIOKafkaProducer, producer), KafkaOptions())
    assert producer.client.closed
    assert producer._sender.sender_task.cancelled()
