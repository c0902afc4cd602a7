"""`delivery: exactly_once` over a real Kafka: a subscriber with `read_committed` sees every answer once."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from aiokafka.errors import KafkaTimeoutError
from confluent_kafka import Message

from streamer.errors import Fenced, LogUnavailable
from streamer.log.base import Commit, Committed
from streamer.log.kafka import KafkaOptions
from streamer.log.kafka_exact import ExactCommits
from streamer.log.kafka_publish import KafkaPublisher, Prepared
from streamer.log.kafka_topics import KafkaTopics
from streamer.log.kafka_transactions import Transactions
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
from tests.integration.log_conformance import Case, everything
from tests.integration.sleeper import one_of_two_sleeps_past_its_session_and_wakes

EXACTLY_ONCE = pytest.mark.parametrize("delivery", ["exactly_once"])


def answers_to(name: str, messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if header(message, "ce_id").startswith(f"{name}-in/")]


def check_each_answered_once(kafka: str, name: str, source: Source, total: int) -> None:
    """Every input has one answer, and it is the right one."""
    answers = answers_to(name, read_until(kafka, "predictions", mine(name, total)))
    ids = Counter(header(message, "ce_id") for message in answers)
    assert [i for i, times in ids.items() if times > 1] == []
    assert set(ids) == ids_due(kafka, f"{name}-in")
    assert sums_by_device(answers) == expected(source.numbers)


@EXACTLY_ONCE
def test_killed_four_times_mid_stream_every_answer_is_there_once(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    source = Source(kafka, f"{name}-in")
    for killed_after in (1, 90, 250, 299):
        process = worker_process()
        total = source.send(50)
        read_until(kafka, "predictions", mine(name, total - 300 + killed_after))
        process.send_signal(signal.SIGKILL)
        process.wait()
    worker_process()
    read_until(kafka, "predictions", mine(name, total))
    total = source.send(5)  # what a killed worker left open is behind these
    check_each_answered_once(kafka, name, source, total)


@EXACTLY_ONCE
def test_a_worker_that_sleeps_past_its_session_and_wakes_says_nothing_a_second_time(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    source = Source(kafka, f"{name}-in")
    (sleeper, _), total = one_of_two_sleeps_past_its_session_and_wakes(kafka, name, worker_process, source)
    check_each_answered_once(kafka, name, source, total)
    assert sleeper.poll() is None, "the fenced worker is to start afresh, not to end"


class AnswerLost(Transactions):
    """The first answer is lost: of a transaction that happened, or of one that did not."""

    def __init__(self, options: KafkaOptions, group: str, *, happened: bool) -> None:
        super().__init__(options, group)
        self._happened = happened
        self.runs = 0

    async def run(self, name: TopicPartition, offset: int, metadata: str, appends: Sequence[Prepared]) -> None:
        self.runs += 1
        if self._happened or self.runs > 1:
            await super().run(name, offset, metadata, appends)
        if self.runs == 1:
            raise KafkaTimeoutError


class OneMember:
    """A member whom its group counts on, or not."""

    def __init__(self, case: Case, group: str, topic: str) -> None:
        self._case, self._group, self._topic = case, group, topic
        self.counted_on = True

    async def is_member(self) -> bool:
        return self.counted_on

    def check(self, commit: Commit) -> None:
        assert commit.partition.topic == self._topic

    async def committed_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        reader = self._case.log.consumer(self._group, [self._topic])
        async with reader:
            found = {name: await reader.committed(name) for name in partitions}
        return {name: at for name, at in found.items() if at is not None}


@pytest.fixture
def kind(kafka: str) -> Kind:
    """For `case`: this file is about transactions alone."""
    return Kind("kafka", kafka, "exactly_once")


async def values_in(case: Case, topic: str) -> list[bytes | None]:
    return [record.value for record in await everything(case.log, TopicPartition(topic, 0))]


async def commits_over(
    case: Case, kafka: str, topic: str, transactions: Transactions
) -> tuple[ExactCommits, OneMember]:
    options = KafkaOptions(bootstrap_servers=kafka)
    topics = KafkaTopics(options)
    await topics.start()
    case.stack.push_async_callback(topics.stop)
    publisher = KafkaPublisher(options, topics)
    case.stack.push_async_callback(publisher.stop)
    member = OneMember(case, f"group-{topic}", topic)
    commits = ExactCommits(options, publisher, f"group-{topic}", member, transactions)
    case.stack.push_async_callback(commits.stop)
    await commits.acquire([TopicPartition(topic, 0)])
    return commits, member


@pytest.mark.kafka
@pytest.mark.parametrize("happened", [True, False], ids=["it happened", "it did not"])
async def test_a_commit_whose_answer_was_lost_is_tried_again_and_happens_once(
    case: Case, kafka: str, happened: bool
) -> None:
    topic, output = await case.topic(), await case.topic()
    transactions = AnswerLost(KafkaOptions(bootstrap_servers=kafka), f"group-{topic}", happened=happened)
    commits, member = await commits_over(case, kafka, topic, transactions)
    first, second = (
        Commit(TopicPartition(topic, 0), n, outputs=[Append(output, 0, [NewRecord(b"k", str(n).encode())])])
        for n in (1, 2)
    )
    with pytest.raises(LogUnavailable):
        await commits.commit([first])
    await commits.commit([first])
    await commits.commit([second])
    await commits.commit([second])  # as after an error of another partition
    assert await values_in(case, output) == [b"1", b"2"]
    assert (await member.committed_of([TopicPartition(topic, 0)]))[TopicPartition(topic, 0)].offset == 2


@pytest.mark.kafka
async def test_after_a_lost_answer_a_member_that_its_group_has_dropped_sends_nothing(case: Case, kafka: str) -> None:
    topic, output = await case.topic(), await case.topic()
    transactions = AnswerLost(KafkaOptions(bootstrap_servers=kafka), f"group-{topic}", happened=False)
    commits, member = await commits_over(case, kafka, topic, transactions)
    commit = Commit(TopicPartition(topic, 0), 1, outputs=[Append(output, 0, [NewRecord(b"k", b"1")])])
    with pytest.raises(LogUnavailable):
        await commits.commit([commit])
    member.counted_on = False
    with pytest.raises(Fenced, match="no longer counts on this member"):
        await commits.commit([commit])
    assert await values_in(case, output) == []


@pytest.mark.kafka
async def test_after_a_lost_answer_what_another_owner_has_committed_stands(case: Case, kafka: str) -> None:
    topic, output = await case.topic(), await case.topic()
    options = KafkaOptions(bootstrap_servers=kafka)
    commits, _ = await commits_over(case, kafka, topic, AnswerLost(options, f"group-{topic}", happened=False))
    mine_, theirs = (
        Commit(TopicPartition(topic, 0), 1, outputs=[Append(output, 0, [NewRecord(b"k", who)])])
        for who in (b"mine", b"theirs")
    )
    with pytest.raises(LogUnavailable):
        await commits.commit([mine_])
    other, _ = await commits_over(case, kafka, topic, Transactions(options, f"group-{topic}"))
    await other.commit([theirs])
    with pytest.raises(Fenced, match="another owner has committed"):
        await commits.commit([mine_])
    assert await values_in(case, output) == [b"theirs"]


@pytest.mark.kafka
async def test_an_earlier_owner_that_the_group_has_dropped_can_publish_nothing(case: Case, kafka: str) -> None:
    topic, output = await case.topic(), await case.topic()
    options = KafkaOptions(bootstrap_servers=kafka)
    earlier, sleeper = await commits_over(case, kafka, topic, Transactions(options, f"group-{topic}"))
    later, _ = await commits_over(case, kafka, topic, Transactions(options, f"group-{topic}"))
    sleeper.counted_on = False
    one, other = (
        Commit(TopicPartition(topic, 0), 1, outputs=[Append(output, 0, [NewRecord(b"k", who)])])
        for who in (b"earlier", b"later")
    )
    with pytest.raises(Fenced):
        await earlier.commit([one])
    await later.commit([other])
    assert await values_in(case, output) == [b"later"]


@pytest.mark.kafka
async def test_an_owner_that_was_fenced_by_mistake_begins_again_and_loses_nothing(case: Case, kafka: str) -> None:
    topic, output = await case.topic(), await case.topic()
    options = KafkaOptions(bootstrap_servers=kafka)
    owner, _ = await commits_over(case, kafka, topic, Transactions(options, f"group-{topic}"))
    await commits_over(case, kafka, topic, Transactions(options, f"group-{topic}"))  # no member of the group
    commit = Commit(TopicPartition(topic, 0), 1, outputs=[Append(output, 0, [NewRecord(b"k", b"owner")])])
    with pytest.raises(LogUnavailable, match="once more"):
        await owner.commit([commit])
    await owner.commit([commit])
    assert await values_in(case, output) == [b"owner"]
