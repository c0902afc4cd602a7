"""Static membership (KIP-345): a worker that restarts soon is not missed by its group."""

from __future__ import annotations

import pytest

from streamer.log.base import Revoked
from streamer.log.kafka import KafkaLog, KafkaOptions
from tests.integration.conftest import Kind
from tests.integration.log_conformance import Case, Member, turns


@pytest.fixture
def kind(kafka: str) -> Kind:
    """For `case`: this file is about Kafka alone."""
    return Kind("kafka", kafka)


async def joined(case: Case, kafka: str, group: str, topic: str, instance: str) -> Member:
    log = await case.stack.enter_async_context(
        KafkaLog(KafkaOptions(bootstrap_servers=kafka, group_instance_id=instance))
    )
    return await case.member(group, topic, log=log)


@pytest.mark.kafka
async def test_who_comes_back_under_its_own_name_gets_its_partitions_and_the_others_keep_theirs(
    case: Case, kafka: str
) -> None:
    topic = await case.topic(2)
    group = f"group-{topic}"
    staying = await joined(case, kafka, group, topic, "box-1")
    log = await case.stack.enter_async_context(
        KafkaLog(KafkaOptions(bootstrap_servers=kafka, group_instance_id="box-2"))
    )
    async with log.consumer(group, [topic]) as consumer:
        restarting = Member(consumer)
        await turns(staying, restarting, until=lambda: len(staying.owned) == len(restarting.owned) == 1)
        had, seen = frozenset(restarting.owned), len(staying.seen)
    back = await joined(case, kafka, group, topic, "box-2")
    await turns(staying, back, until=lambda: bool(back.owned))
    assert back.owned == had
    assert [event for event in staying.seen[seen:] if isinstance(event, Revoked)] == []
