"""Topics of a real Kafka whose partitions or settings somebody changes: a worker ends, or does not begin."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its own typing does not name them as exported
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

import streamer
from streamer.errors import TopicMismatch
from streamer.log.kafka_connection import KafkaOptions
from streamer.testing.models import RunningSum

pytestmark = pytest.mark.kafka


def adder(log: streamer.KafkaLog, name: str) -> streamer.App:
    return streamer.pipeline(
        streamer.wrap(RunningSum(), name="adder"),
        log=log,
        name=name,
        input=streamer.InputOptions(topic=f"{name}-in", partitions=2),
    )


def more_partitions(kafka: str, topic: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(topic, count)])[topic].result()


def alter(kafka: str, topic: str, setting: str, value: str) -> None:
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.incremental_alter_configs([resource])[resource].result()


async def serve(kafka: str, name: str, up: asyncio.Event) -> None:
    """Serve until the worker fails."""
    async with streamer.KafkaLog(KafkaOptions(bootstrap_servers=kafka)) as log, adder(log, name) as app:
        up.set()
        await app.failed()


async def begin(kafka: str, name: str) -> None:
    """Begin to serve, and leave."""
    async with streamer.KafkaLog(KafkaOptions(bootstrap_servers=kafka)) as log, adder(log, name):
        pass


async def test_an_input_that_gets_more_partitions_ends_the_worker_and_keeps_it_from_beginning_again(
    kafka: str, name: str
) -> None:
    await begin(kafka, name)
    up = asyncio.Event()
    serving = asyncio.create_task(serve(kafka, name, up))
    await up.wait()
    await asyncio.to_thread(more_partitions, kafka, f"{name}-in", 4)
    with pytest.raises(TopicMismatch, match=r"has 4 partitions now, its changelog .* 2: streams and their states"):
        await serving
    with pytest.raises(TopicMismatch, match="has 2 partitions, its input 4: states would be lost"):
        await begin(kafka, name)


@pytest.mark.parametrize(("setting", "value"), [("cleanup.policy", "compact,delete"), ("delete.retention.ms", "1000")])
async def test_a_changelog_that_somebody_made_forgetful_keeps_a_worker_from_beginning(
    kafka: str, name: str, setting: str, value: str
) -> None:
    await begin(kafka, name)
    await asyncio.to_thread(alter, kafka, f"streamer.{name}.live.{name}-in.changelog", setting, value)
    with pytest.raises(TopicMismatch, match=f"has {setting}={value}.*kafka-configs.sh"):
        await begin(kafka, name)


async def test_a_changelog_that_takes_no_state_of_the_model_keeps_a_worker_from_beginning(
    kafka: str, name: str
) -> None:
    await begin(kafka, name)
    await asyncio.to_thread(alter, kafka, f"streamer.{name}.live.{name}-in.changelog", "max.message.bytes", "100000")
    with pytest.raises(TopicMismatch, match=r"a state of this model may have 262148: .*max\.message\.bytes"):
        await begin(kafka, name)
