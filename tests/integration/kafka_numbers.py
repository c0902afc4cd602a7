"""Numbers into Kafka and their sums out of it, by another client (confluent-kafka) than streamer's own."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

DEADLINE_S = 120.0


def produce(bootstrap: str, topic: str, numbers: dict[str, list[int]], first_seq: int = 0) -> None:
    """Numbers for each device, in turns, with sequence numbers."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    for seq in range(max(len(values) for values in numbers.values())):
        for device, values in numbers.items():
            if seq < len(values):
                headers: Any = [("x-session", b"one"), ("x-seq", str(first_seq + seq).encode())]
                value = json.dumps({"value": values[seq]}).encode()
                producer.produce(topic, key=device.encode(), value=value, headers=headers)
        producer.poll(0)
    assert producer.flush(60) == 0


def read_until(
    bootstrap: str, topic: str, enough: Callable[[list[Message]], bool], partitions: int = 2
) -> list[Message]:
    """Everything of a topic as a subscriber with `read_committed` sees it, until it is enough."""
    config: Any = {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed"}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not enough(found):
            assert time.monotonic() < deadline, f"only {len(found)} messages in {topic}"
            found += [m for m in consumer.consume(1000, 0.2) if m.error() is None]
    finally:
        consumer.close()
    return found


def header(message: Message, wanted: str) -> str:
    value = dict(message.headers() or [])[wanted]
    assert isinstance(value, bytes)
    return value.decode()


def sums_by_device(messages: list[Message]) -> dict[str, list[float]]:
    """The answers of each device in the order of its input, each `ce_id` once; two answers to one id must agree."""
    answers: dict[str, dict[int, float]] = defaultdict(dict)
    for message in messages:
        offset = int(header(message, "ce_id").split("/")[2])
        value = json.loads(message.value() or b"")["outputs"]["y"][0]
        device = (message.key() or b"").decode()
        assert answers[device].setdefault(offset, value) == value
    return {device: [by_offset[o] for o in sorted(by_offset)] for device, by_offset in answers.items()}


def expected(numbers: dict[str, list[int]]) -> dict[str, list[float]]:
    return {device: [float(sum(values[: n + 1])) for n in range(len(values))] for device, values in numbers.items()}


def answered(wanted: int) -> Callable[[list[Message]], bool]:
    """Whether that many different inputs were answered."""
    return lambda found: len({header(m, "ce_id") for m in found}) >= wanted


def mine(name: str, wanted: int) -> Callable[[list[Message]], bool]:
    """Whether that many inputs of this test's topic were answered."""
    return lambda found: len({i for m in found if (i := header(m, "ce_id")).startswith(f"{name}-in/")}) >= wanted


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
        self.numbers: dict[str, list[int]] = {f"d{n}": [] for n in range(6)}
        self._bootstrap, self._topic = bootstrap, topic
        self._draw = random.Random(11)

    def send(self, each: int) -> int:
        """More numbers of every device; returns how many there are of all now."""
        more = {device: [self._draw.randrange(100) for _ in range(each)] for device in self.numbers}
        produce(self._bootstrap, self._topic, more, len(self.numbers["d0"]))
        for device, values in more.items():
            self.numbers[device] += values
        return sum(map(len, self.numbers.values()))
