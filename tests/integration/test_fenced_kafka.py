"""A worker that sleeps past its session and wakes: what at-least-once promises of its zombie's last words."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.integration.kafka_numbers import DEADLINE_S, expected, header, mine, produce, read_until, sums_by_device

Numbers = dict[str, list[int]]


def until_shared(bootstrap: str, group: str, members: int) -> None:
    """Wait until the group has so many members and each of them a partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    deadline = time.monotonic() + DEADLINE_S
    counts: list[int] = []
    while len(counts) != members or 0 in counts:
        assert time.monotonic() < deadline, f"the members of {group} have {counts} partitions"
        try:
            described = admin.describe_consumer_groups([group])[group].result()
        except KafkaException:  # a fresh broker has no coordinator yet
            continue
        counts = [len(member.assignment.topic_partitions) for member in described.members]


def ids_due(bootstrap: str, topic: str) -> set[str]:
    """The id of the answer to each record of a topic of two partitions."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "nobody"})
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), 30)[1] for p in range(2)]
    consumer.close()
    return {f"{topic}/{p}/{offset}/prediction/0" for p, end in enumerate(ends) for offset in range(end)}


class Source:
    """Six devices, whose numbers are remembered."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.numbers: Numbers = {f"d{n}": [] for n in range(6)}
        self._bootstrap, self._topic = bootstrap, topic
        self._draw = random.Random(11)

    def send(self, each: int) -> int:
        """More numbers of every device; returns how many there are of all now."""
        more = {device: [self._draw.randrange(100) for _ in range(each)] for device in self.numbers}
        produce(self._bootstrap, self._topic, more, len(self.numbers["d0"]))
        for device, values in more.items():
            self.numbers[device] += values
        return sum(map(len, self.numbers.values()))


def test_a_worker_that_sleeps_past_its_session_and_wakes_loses_nothing_and_says_nothing_else_under_an_id(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    source, group = Source(kafka, f"{name}-in"), f"streamer.{name}.live"
    sleeper = worker_process()
    worker_process()
    until_shared(kafka, group, 2)
    read_until(kafka, "predictions", mine(name, source.send(50) // 2))
    source.send(200)
    sleeper.send_signal(signal.SIGSTOP)  # with records in its hands
    total = source.send(50)
    read_until(kafka, "predictions", mine(name, total))  # the other took over and answered all
    sleeper.send_signal(signal.SIGCONT)
    total = source.send(200)
    until_shared(kafka, group, 2)
    total = source.send(50)
    messages = read_until(kafka, "predictions", mine(name, total))
    answers = [message for message in messages if header(message, "ce_id").startswith(f"{name}-in/")]
    assert sleeper.poll() is None, "the fenced worker is to start afresh, not to end"
    assert {header(message, "ce_id") for message in answers} == ids_due(kafka, f"{name}-in")
    assert sums_by_device(answers) == expected(source.numbers)
