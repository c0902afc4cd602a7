"""What the Kafka log does when things go wrong: no broker, a broker lost and back, no permission, a lost membership."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from confluent_kafka import Consumer as IndependentConsumer
from confluent_kafka import Producer as IndependentProducer

from streamer.errors import Fenced, LogUnavailable, PermissionDenied, TopicMissing
from streamer.log.base import Commit, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.records import Append, NewRecord, TopicPartition
from streamer.testing.kafka_broker import KafkaBroker, free_port
from tests.conftest import KAFKA_PASSWORD, KAFKA_USER, require_kafka
from tests.integration.log_conformance import Member, everything, plain, turns

pytestmark = pytest.mark.kafka


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[KafkaLog]:
    """A log on the session's broker."""
    async with KafkaLog(KafkaOptions(bootstrap_servers=kafka)) as log:
        yield log


@pytest.fixture
def fragile() -> Iterator[KafkaBroker]:
    """A broker of the test's own, which it may stop and start."""
    require_kafka()
    with KafkaBroker() as broker:
        yield broker


async def test_an_absent_broker_is_named_with_its_remedy() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(LogUnavailable, match=rf"{nobody}.*make kafka"):
        async with KafkaLog(KafkaOptions(bootstrap_servers=nobody, request_timeout_s=2)):
            pytest.fail("nobody answers there")


async def test_what_was_published_is_what_an_independent_client_reads(log: KafkaLog, kafka: str) -> None:
    await log.create_topics([TopicSpec("independent", 2)])
    await log.append("independent", 1, [NewRecord(b"key", b"value", (("ce_id", b"a/0/1"),), 1_700_000_000_000)])
    settings = {"bootstrap.servers": kafka, "group.id": "independent", "auto.offset.reset": "earliest"}
    consumer = IndependentConsumer(settings)
    consumer.subscribe(["independent"])
    message = await asyncio.to_thread(consumer.poll, 20.0)
    await asyncio.to_thread(consumer.close)
    assert message is not None
    assert (message.partition(), message.key(), message.value()) == (1, b"key", b"value")
    assert message.headers() == [("ce_id", b"a/0/1")]
    assert message.timestamp()[1] == 1_700_000_000_000


async def test_a_topic_without_permission_is_refused_by_name(log: KafkaLog, kafka_broker: KafkaBroker) -> None:
    await log.create_topics([TopicSpec("forbidden", 1)])
    guest = KafkaOptions(
        bootstrap_servers=kafka_broker.sasl_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_username=KAFKA_USER,
        sasl_password=KAFKA_PASSWORD,
    )
    async with KafkaLog(guest) as outsider:
        assert "forbidden" not in await outsider.topics()
        with pytest.raises(PermissionDenied, match=r"guest.*forbidden"):
            await outsider.append("forbidden", 0, plain([b"a"]))
        with pytest.raises(PermissionDenied, match="forbidden"):
            async with outsider.reader({TopicPartition("forbidden", 0): 0}):
                pytest.fail("a guest may not read")
        with pytest.raises(PermissionDenied, match="create"):
            await outsider.create_topics([TopicSpec("mine", 1)])


async def test_a_wrong_password_does_not_get_in(kafka_broker: KafkaBroker) -> None:
    guest = KafkaOptions(
        bootstrap_servers=kafka_broker.sasl_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_username=KAFKA_USER,
        sasl_password="wrong",
        request_timeout_s=3,
    )
    with pytest.raises((LogUnavailable, PermissionDenied), match=r"password|let guest"):
        async with KafkaLog(guest):
            pytest.fail("the password was wrong")


async def test_a_partition_that_does_not_exist_is_missing(log: KafkaLog) -> None:
    await log.create_topics([TopicSpec("two", 2)])
    with pytest.raises(TopicMissing, match="two/2"):
        await log.append("two", 2, plain([b"a"]))


async def test_reads_and_appends_go_on_when_a_lost_broker_is_back(fragile: KafkaBroker) -> None:
    options = KafkaOptions(bootstrap_servers=fragile.bootstrap, request_timeout_s=60)
    async with KafkaLog(options) as log:
        await log.create_topics([TopicSpec("topic", 1)])
        partition = TopicPartition("topic", 0)
        await log.append("topic", 0, plain([b"before"]))
        async with log.reader({partition: 1}) as reader:
            reading = asyncio.create_task(reader.read(timeout_s=60))
            fragile.kill()
            appending = asyncio.create_task(log.append("topic", 0, plain([b"after"])))
            await asyncio.wait({appending}, timeout=0.5)
            assert not appending.done()
            fragile.start()
            assert await appending == 1
            (batch,) = await reading
        assert [r.value for r in batch.records] == [b"after"]
        assert [r.value for r in await everything(log, partition)] == [b"before", b"after"]


async def test_an_append_to_a_lost_broker_gives_up_after_the_request_timeout(fragile: KafkaBroker) -> None:
    options = KafkaOptions(bootstrap_servers=fragile.bootstrap, request_timeout_s=2)
    async with KafkaLog(options) as log:
        await log.create_topics([TopicSpec("topic", 1)])
        await log.append("topic", 0, plain([b"before"]))
        fragile.kill()
        with pytest.raises(LogUnavailable, match=fragile.bootstrap):
            await log.append("topic", 0, plain([b"lost"]))
        fragile.start()
        await log.append("topic", 0, plain([b"after"]))
        values = [r.value for r in await everything(log, TopicPartition("topic", 0))]
        assert [value for value in values if value != b"lost"] == [b"before", b"after"]
        assert values.count(b"lost") <= 1  # what gave up may still have arrived, as with every lost answer


async def test_a_member_that_the_group_dropped_cannot_commit(log: KafkaLog, kafka: str) -> None:
    await log.create_topics([TopicSpec("dropped", 1)])
    partition = TopicPartition("dropped", 0)
    hasty = KafkaOptions(bootstrap_servers=kafka, session_timeout_s=1, heartbeat_interval_s=900)  # never beats
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(KafkaLog(hasty))
        silent = Member(await stack.enter_async_context(other.consumer("dropped-group", ["dropped"])))
        await turns(silent, until=lambda: bool(silent.owned))
        heir = Member(await stack.enter_async_context(log.consumer("dropped-group", ["dropped"])))
        await turns(heir, until=lambda: bool(heir.owned))
        with pytest.raises(Fenced):
            await silent.consumer.commit([Commit(partition, 1, "stale")])
        assert await heir.consumer.committed(partition) is None


async def test_positions_pass_the_markers_of_transactions(log: KafkaLog, kafka: str) -> None:
    await log.create_topics([TopicSpec("transactions", 1)])
    partition = TopicPartition("transactions", 0)
    await asyncio.to_thread(two_transactions, kafka, "transactions")
    end = (await log.offsets([partition]))[partition].end
    assert end == 4  # committed record, its marker, aborted record, its marker
    records = await everything(log, partition)
    assert [r.value for r in records] == [b"committed"]
    async with log.consumer("marker-group", ["transactions"]) as consumer:
        member = Member(consumer)
        await turns(member, until=lambda: bool(member.owned) and member.consumer.position(partition) == end)
        assert member.values() == [b"committed"]


def two_transactions(bootstrap: str, topic: str) -> None:
    """One committed and one aborted, each of one record, by an independent client."""
    producer = IndependentProducer({"bootstrap.servers": bootstrap, "transactional.id": "independent"})
    producer.init_transactions(20.0)
    producer.begin_transaction()
    producer.produce(topic, b"committed", partition=0)
    producer.commit_transaction(20.0)
    producer.begin_transaction()
    producer.produce(topic, b"aborted", partition=0)
    producer.flush(20.0)
    producer.abort_transaction(20.0)


async def test_one_commit_publishes_the_outputs_of_all_its_partitions(log: KafkaLog) -> None:
    await log.create_topics([TopicSpec("many-in", 16), TopicSpec("many-out", 16), TopicSpec("many-state", 16, True)])
    async with log.consumer("many", ["many-in"]) as consumer:
        member = Member(consumer)
        await turns(member, until=lambda: len(member.owned) == 16)
        await consumer.commit(
            [
                Commit(
                    TopicPartition("many-in", p),
                    0,
                    f"commit {p}",
                    outputs=[Append("many-out", p, plain([b"out"]))],
                    states=[Append("many-state", p, [NewRecord(b"s", b"state")])],
                )
                for p in range(16)
            ]
        )
    for p in range(16):
        assert [r.value for r in await everything(log, TopicPartition("many-out", p))] == [b"out"]
