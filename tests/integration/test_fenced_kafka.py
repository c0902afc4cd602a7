"""A worker that sleeps past its session and wakes: what at-least-once promises of its zombie's last words."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from streamer.errors import Fenced
from streamer.log.base import Commit
from streamer.log.kafka import KafkaOptions
from streamer.log.kafka_consumer import KafkaConsumer
from streamer.log.kafka_publish import KafkaPublisher, Prepared
from streamer.log.kafka_topics import KafkaTopics
from streamer.records import Append, NewRecord, TopicPartition
from tests.integration.conftest import Kind
from tests.integration.kafka_numbers import (
    Source,
    expected,
    header,
    ids_due,
    mine,
    read_until,
    sums_by_device,
)
from tests.integration.log_conformance import Case, Member, turns
from tests.integration.sleeper import one_of_two_sleeps_past_its_session_and_wakes


def check_answers(kafka: str, name: str, source: Source, total: int) -> None:
    """Every input is answered, and all answers to it are the same and right."""
    messages = read_until(kafka, "predictions", mine(name, total))
    answers = [message for message in messages if header(message, "ce_id").startswith(f"{name}-in/")]
    assert {header(message, "ce_id") for message in answers} == ids_due(kafka, f"{name}-in")
    assert sums_by_device(answers) == expected(source.numbers)


def test_a_worker_that_sleeps_past_its_session_and_wakes_loses_nothing_and_says_nothing_else_under_an_id(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    source = Source(kafka, f"{name}-in")
    workers, total = one_of_two_sleeps_past_its_session_and_wakes(kafka, name, worker_process, source)
    check_answers(kafka, name, source, total)
    assert workers[0].poll() is None, "the fenced worker is to start afresh, not to end"
    for worker in workers:
        worker.kill()
        worker.wait()
    worker_process()  # from what the changelog holds now
    check_answers(kafka, name, source, source.send(20))


@pytest.fixture
def kind(kafka: str) -> Kind:
    """For `case`: this file is about commits without transactions."""
    return Kind("kafka", kafka)


class HeldPublisher(KafkaPublisher):
    """Publishes nothing until it may, as a process that was stopped."""

    def __init__(self, options: KafkaOptions, topics: KafkaTopics) -> None:
        super().__init__(options, topics)
        self.begun, self.may = asyncio.Event(), asyncio.Event()

    async def publish(self, appends: Sequence[Prepared]) -> list[int]:
        self.begun.set()
        await self.may.wait()
        return await super().publish(appends)


async def held_member(case: Case, kafka: str, group: str, topic: str) -> tuple[Member, HeldPublisher]:
    options = KafkaOptions(bootstrap_servers=kafka, rebalance_timeout_s=10)
    topics = KafkaTopics(options)
    await topics.start()
    case.stack.push_async_callback(topics.stop)
    publisher = HeldPublisher(options, topics)
    case.stack.push_async_callback(publisher.stop)
    consumer = await case.stack.enter_async_context(KafkaConsumer(options, topics, publisher, group, [topic]))
    return Member(consumer), publisher


@pytest.mark.kafka
async def test_what_was_begun_under_one_assignment_is_refused_under_a_later_one_of_the_same_partition(
    case: Case, kafka: str
) -> None:
    topic, out = await case.topic(), await case.topic()
    partition, group = TopicPartition(topic, 0), f"group-{topic}"
    member, publisher = await held_member(case, kafka, group, topic)
    await turns(member, until=lambda: bool(member.owned))
    commit = Commit(partition, 7, "of the first", outputs=[Append(out, 0, [NewRecord(b"k", b"late")])])
    committing = asyncio.create_task(member.consumer.commit([commit]))
    await publisher.begun.wait()
    async with AsyncExitStack() as passing_by:
        other = Member(await passing_by.enter_async_context(case.log.consumer(group, [topic])))
        await turns(member, other, until=lambda: bool(member.owned) != bool(other.owned) and len(member.seen) > 1)
    await turns(member, until=lambda: bool(member.owned))
    publisher.may.set()
    with pytest.raises(Fenced):
        await committing
    assert await member.consumer.committed(partition) is None
