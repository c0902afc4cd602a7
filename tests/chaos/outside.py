"""Kafka as others see it, through confluent-kafka: feeding, how far a group is, and what a subscriber is given."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.chaos.history import PARTITIONS, Fed

ANSWER_S = 30.0
_NOT_THERE_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC)
"""What is said of a new topic at first."""


class Output(NamedTuple):
    """An output record as a subscriber gets it."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    def header(self, name: str) -> str:
        """The last value of a header; empty where there is none."""
        return next((value.decode(errors="replace") for key, value in reversed(self.headers) if key == name), "")


class Feeder:
    """Feeds records in their order, from where an earlier feeder of the same records left off."""

    def __init__(self, bootstrap: str, records: Sequence[Fed]) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "log_level": 2,
                "message.max.bytes": 2_000_000,
            }
        )
        self._records = records
        self._next = 0
        topics = sorted({record.topic for record in records})
        create_topics(bootstrap, topics)
        self._there = ends(bootstrap, topics)
        self._sent: Counter[tuple[str, int]] = Counter()

    def feed(self, share: float) -> None:
        """All records up to this share of them, 0 to 1."""
        until = min(len(self._records), int(share * len(self._records)))
        for record in self._records[self._next : until]:
            place = (record.topic, record.partition)
            self._sent[place] += 1
            if self._sent[place] > self._there[place]:
                self._produce(record)
        self._next = max(self._next, until)
        self._producer.poll(0)

    def finish(self) -> None:
        """Feed the rest and wait until all of it is there."""
        self.feed(1.0)
        self.settle()

    def settle(self) -> None:
        """Wait until all that was fed is there. Raises TimeoutError.

        To be done before its broker is lost: librdkafka gives up a sequence that it is in doubt about and begins
        another, which doubled a record of 4,650 when a broker was restarted.
        """
        if self._producer.flush(ANSWER_S):
            raise TimeoutError("Kafka did not take all input")

    @property
    def fed(self) -> dict[tuple[str, int], int]:
        """How many records each partition has been given."""
        return dict(self._sent)

    def _produce(self, record: Fed) -> None:
        headers: Any = list(record.headers)
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    timestamp=record.timestamp_ms,
                    headers=headers,
                )
            except BufferError:  # its queue is full
                self._producer.poll(0.1)
            else:
                return


def create_topics(bootstrap: str, topics: Iterable[str]) -> None:
    """Input topics that keep their records for ever, whatever time they bear."""
    wanted = [NewTopic(topic, PARTITIONS, config={"retention.ms": "-1"}) for topic in topics]
    admin = AdminClient(
        {"bootstrap.servers": bootstrap, "log_level": 2}
    )  # kept: it takes its answers along when it goes
    for created in admin.create_topics(wanted).values():
        try:
            created.result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def ends(bootstrap: str, topics: Iterable[str], *, committed: bool = False) -> dict[tuple[str, int], int]:
    """The end of each partition; committed: where the first open transaction begins."""
    isolation = "read_committed" if committed else "read_uncommitted"
    consumer = _consumer(bootstrap, uuid.uuid4().hex, isolation)
    try:
        return {
            (topic, number): _end(consumer, TopicPartition(topic, number))
            for topic in topics
            for number in range(PARTITIONS)
        }
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            _, end = consumer.get_watermark_offsets(partition, ANSWER_S)
            return int(end)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_THERE_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def left(bootstrap: str, groups: Mapping[str, str]) -> int:
    """How many input records are not committed yet. groups: by input topic."""
    bounds = ends(bootstrap, groups)
    return sum(
        bounds[topic, partition] - max(0, at)
        for topic, group in groups.items()
        for partition, at in enumerate(committed(bootstrap, group, topic))
    )


def committed(bootstrap: str, group: str, topic: str) -> list[int]:
    """The offsets that a group has committed, by partition; below 0 where there is none."""
    consumer = _consumer(bootstrap, group, "read_uncommitted")
    try:
        found = consumer.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], ANSWER_S)
    finally:
        consumer.close()
    return [at.offset for at in sorted(found, key=lambda at: at.partition)]


def until_settled(bootstrap: str, topics: Sequence[str]) -> None:
    """Wait until no transaction is open any more. Raises TimeoutError."""
    deadline = time.monotonic() + ANSWER_S
    while ends(bootstrap, topics) != ends(bootstrap, topics, committed=True):
        if time.monotonic() > deadline:
            raise TimeoutError("a transaction stays open")
        time.sleep(0.2)


def read_committed(bootstrap: str, topics: Sequence[str]) -> list[Output]:
    """Everything that stands in these topics now, as a subscriber with `read_committed` gets it."""
    consumer = _consumer(bootstrap, uuid.uuid4().hex, "read_committed")
    places = [TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)]
    consumer.assign(places)
    unread, found = len(places), list[Output]()
    deadline = time.monotonic() + ANSWER_S
    try:
        while unread:
            for message in consumer.consume(1_000, 0.5):
                deadline = time.monotonic() + ANSWER_S
                if (error := message.error()) is None:
                    found.append(_output(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread -= 1
                else:
                    raise KafkaException(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{unread} partitions were not read to their ends")
    finally:
        consumer.close()
    return found


def write(path: Path, outputs: Iterable[Output]) -> None:
    """One output a line, as JSON whose characters are the bytes (latin-1)."""
    with path.with_suffix(".part").open("w", encoding="utf-8") as file:
        for output in outputs:
            headers = [[name, value.decode("latin-1")] for name, value in output.headers]
            key, value = output.key.decode("latin-1"), output.value.decode("latin-1")
            line = [output.topic, output.partition, key, value, headers, output.timestamp_ms]
            file.write(json.dumps(line) + "\n")
    path.with_suffix(".part").rename(path)  # whole or not at all


def read(path: Path) -> list[Output]:
    """What `write` wrote."""
    found = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            topic, partition, key, value, headers, time_ms = json.loads(line)
            named = tuple((name, text.encode("latin-1")) for name, text in headers)
            found.append(Output(topic, partition, key.encode("latin-1"), value.encode("latin-1"), named, time_ms))
    return found


def _consumer(bootstrap: str, group: str, isolation: str) -> Consumer:
    config: Any = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "isolation.level": isolation,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    return Consumer(config)


def _output(message: Message) -> Output:
    given: Any = message.headers() or ()
    return Output(
        message.topic() or "",
        message.partition() or 0,
        message.key() or b"",
        message.value() or b"",
        tuple((name, value or b"") for name, value in given),
        message.timestamp()[1],
    )
