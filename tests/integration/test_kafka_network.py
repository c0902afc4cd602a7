"""What the network may do to the Kafka log: requests that arrive late, behind a proxy that knows what they ask for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from streamer.errors import Fenced, LogUnavailable
from streamer.log.base import Commit, Consumer, Reader, Revoked, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.kafka_connection import Delivery
from streamer.log.kafka_consumer import KafkaConsumer
from streamer.records import Append, NewRecord, TopicPartition
from tests.chaos.network import Behind, behind
from tests.chaos.proxy import Asks, Faults
from tests.conftest import require_kafka
from tests.integration.log_conformance import Member, everything, turns

pytestmark = pytest.mark.kafka
LATE_S = 0.3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """A broker behind a proxy."""
    require_kafka()
    with behind(tmp_path_factory.mktemp("kafka")) as place:
        yield place


class Owner(NamedTuple):
    """A member of a group that owns the only partition of `input`, and what it answers to."""

    consumer: KafkaConsumer
    input: TopicPartition
    output: TopicPartition

    async def answer(self, offset: int) -> None:
        """Commit this offset with the output that belongs to it, as often as it takes."""
        said = Append(*self.output, [NewRecord(b"k", b"%d" % offset)])
        await self.settle(Commit(self.input, offset, outputs=[said]))

    async def settle(self, commit: Commit) -> None:
        """Commit it, as often as it takes."""
        while True:
            try:
                await self.consumer.commit([commit])
            except LogUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
async def owner(place: Behind, request: pytest.FixtureRequest) -> AsyncIterator[Owner]:
    """A worker's side of the log, through the proxy, in transactions."""
    name = request.node.name.translate({ord("["): "-", ord("]"): None, ord(" "): "-"})
    source, target = TopicPartition(f"{name}-in", 0), TopicPartition(f"{name}-out", 0)
    options = KafkaOptions(bootstrap_servers=place.bootstrap, delivery="exactly_once")
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(KafkaLog(options))
        await log.create_topics([TopicSpec(source.topic, 1), TopicSpec(target.topic, 1)])
        consumer = await stack.enter_async_context(log.consumer(name, [source.topic]))
        member = Member(consumer)
        await turns(member, until=lambda: bool(member.owned))
        yield Owner(consumer, source, target)
        place.proxy.heal()


async def said(place: Behind, owner: Owner) -> list[bytes | None]:
    """What a subscriber with `read_committed` is given."""
    async with KafkaLog(KafkaOptions(bootstrap_servers=place.direct)) as log:
        return [record.value for record in await everything(log, owner.output)]


@pytest.mark.parametrize("late", [Asks.ADD_PARTITIONS, Asks.ADD_OFFSETS, Asks.COMMIT_OFFSETS, Asks.END_TRANSACTION])
@pytest.mark.parametrize("amid", [Asks.PRODUCE, Asks.END_TRANSACTION])
async def test_a_request_of_one_transaction_that_arrives_amid_the_next_changes_nothing(
    place: Behind, owner: Owner, late: Asks, amid: Asks
) -> None:
    await owner.answer(1)
    place.proxy.set(Faults(late=frozenset({late}), late_s=LATE_S, late_times=1))
    await owner.answer(2)
    place.proxy.set(Faults(kept=frozenset({amid})))
    third = asyncio.create_task(owner.answer(3))
    await asyncio.wait({third}, timeout=1.5 * LATE_S)  # the late one arrives meanwhile
    place.proxy.heal()
    await third
    assert await said(place, owner) == [b"1", b"2", b"3"]
    committed = await owner.consumer.committed(owner.input)
    assert committed is not None
    assert committed.offset == 3


async def test_a_producer_that_ends_between_two_batches_of_a_transaction_is_replaced(
    place: Behind, owner: Owner
) -> None:
    other = TopicPartition(f"{owner.output.topic}-too", 0)
    async with KafkaLog(KafkaOptions(bootstrap_servers=place.direct)) as log:
        await log.create_topics([TopicSpec(other.topic, 1)])
    await owner.answer(1)
    outputs = [Append(*name, [NewRecord(b"k", b"2")]) for name in (owner.output, other)]
    commit = Commit(owner.input, 2, outputs=outputs)
    place.proxy.set(Faults(late=frozenset({Asks.ADD_PARTITIONS}), late_s=0.1, late_times=1))
    with pytest.raises(LogUnavailable):  # while the client asks where the other topic is, its first batch is refused
        await owner.consumer.commit([commit])
    await owner.settle(commit)
    assert await said(place, owner) == [b"1", b"2"]
    assert await said(place, owner._replace(output=other)) == [b"2"]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_what_was_closed_before_the_group_dropped_its_member_is_refused_when_the_partition_is_back(
    place: Behind, delivery: Delivery
) -> None:
    source, target = TopicPartition(f"{delivery}-back-in", 0), TopicPartition(f"{delivery}-back-out", 0)
    options = KafkaOptions(
        bootstrap_servers=place.bootstrap,
        delivery=delivery,
        session_timeout_s=1.0,
        heartbeat_interval_s=0.1,
        request_timeout_s=2.0,
    )
    closed = Commit(source, 1, outputs=[Append(*target, [NewRecord(b"k", b"1")])])
    async with KafkaLog(options) as log:
        await log.create_topics([TopicSpec(source.topic, 1), TopicSpec(target.topic, 1)])
        async with log.consumer(f"{delivery}-back", [source.topic]) as consumer:
            member = Member(consumer)
            await turns(member, until=lambda: bool(member.owned))
            place.proxy.set(Faults(silent_up=True))
            with pytest.raises(LogUnavailable):
                await consumer.commit([closed])
            place.proxy.heal(forget=True)
            await turns(member, until=lambda: any(isinstance(e, Revoked) and e.lost for e in member.seen))
            await turns(member, until=lambda: bool(member.owned))
            with pytest.raises(Fenced):
                await consumer.commit([closed])
            assert await consumer.committed(source) is None
            await consumer.commit([Commit(source, 1)])  # what the new assignment closes is taken


async def test_readers_and_members_leave_without_an_error_while_their_broker_is_away(place: Behind) -> None:
    options = KafkaOptions(bootstrap_servers=place.bootstrap, session_timeout_s=1.0, request_timeout_s=2.0)
    topic = TopicPartition("left", 0)
    async with KafkaLog(options) as log:
        await log.create_topics([TopicSpec(topic.topic, 1)])
        async with AsyncExitStack() as stack:
            readers: list[Reader | Consumer] = [
                await stack.enter_async_context(log.reader({topic: 0})) for _ in range(8)
            ]
            member = Member(await stack.enter_async_context(log.consumer("leaving", [topic.topic])))
            await turns(member, until=lambda: bool(member.owned))
            place.proxy.set(Faults(refused=True))
            place.proxy.cut(random.Random(0))
            await asyncio.gather(*(reader.read(timeout_s=0.5) for reader in (*readers, member.consumer)))
    place.proxy.heal()


async def test_a_broker_that_is_away_is_asked_for_a_few_times_a_second_and_found_when_it_is_back(
    place: Behind,
) -> None:
    topic = TopicPartition("away", 0)
    async with KafkaLog(KafkaOptions(bootstrap_servers=place.bootstrap)) as log:
        await log.create_topics([TopicSpec(topic.topic, 1)])
        async with log.reader({topic: 0}) as reader:
            place.proxy.set(Faults(refused=True))
            place.proxy.cut(random.Random(0))
            before = place.proxy.refused
            assert await reader.read(timeout_s=2.0) == []
            assert 0 < place.proxy.refused - before < 60
            place.proxy.heal()
            await log.append(*topic, [NewRecord(b"k", b"news")])
            (batch,) = await reader.read(timeout_s=10.0)
        assert [record.value for record in batch.records] == [b"news"]


async def test_an_owner_that_cannot_get_its_producer_says_so_within_the_request_timeout(place: Behind) -> None:
    options = KafkaOptions(bootstrap_servers=place.bootstrap, request_timeout_s=1.0, delivery="exactly_once")
    topic = TopicPartition("waiting", 0)
    async with KafkaLog(options) as log:
        await log.create_topics([TopicSpec(topic.topic, 1)])
        async with log.consumer("waiting", [topic.topic]) as consumer:
            place.proxy.set(Faults(kept=frozenset({Asks.BEGIN})))
            with pytest.raises(LogUnavailable):
                await turns(Member(consumer), until=lambda: False)
            place.proxy.heal()
            member = Member(consumer)
            await turns(member, until=lambda: bool(member.owned))


async def test_an_append_that_cannot_get_its_producer_says_so_within_the_request_timeout(place: Behind) -> None:
    async with KafkaLog(KafkaOptions(bootstrap_servers=place.bootstrap, request_timeout_s=1.0)) as log:
        await log.create_topics([TopicSpec("begun", 1)])
        place.proxy.set(Faults(kept=frozenset({Asks.BEGIN})))
        async with asyncio.timeout(10.0):
            with pytest.raises(LogUnavailable):
                await log.append("begun", 0, [NewRecord(b"k", b"early")])
        place.proxy.heal()
        await log.append("begun", 0, [NewRecord(b"k", b"late")])
