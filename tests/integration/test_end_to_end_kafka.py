"""From a Kafka topic to Kafka topics, produced and read by another client (confluent-kafka) than streamer's own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from asyncio import to_thread
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

import streamer
from streamer.log.kafka_connection import KafkaOptions
from streamer.testing.models import RunningSum

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0


@pytest.fixture
def name() -> str:
    """A pipeline name, and so a group and topics, of this test's own."""
    return f"e2e-{uuid.uuid4().hex[:8]}"


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


def adder(log: streamer.Log, name: str) -> streamer.App:
    """A pipeline that adds up the numbers of `name`-in and publishes to topics of its own."""
    settings = streamer.Settings.model_validate(
        {
            "feeds": [],
            "pipelines": {
                name: {
                    "input": {"topic": f"{name}-in", "partitions": 2},
                    "model": "adder",
                    "commit": {"commit_interval_ms": 20, "snapshot_interval_ms": 100},
                    "outputs": {
                        "predictions": f"{name}-out",
                        "deadletters": f"{name}-dead",
                        "streams": f"{name}-streams",
                    },
                }
            },
        }
    )
    return streamer.App(settings, log=log, models={name: streamer.wrap(RunningSum(), name="adder")})


async def test_numbers_of_another_client_are_answered_as_cloud_events(kafka: str, name: str) -> None:
    numbers = {f"d{n}": list(range(1, 40)) for n in range(5)}
    async with streamer.KafkaLog(KafkaOptions(bootstrap_servers=kafka)) as log, adder(log, name) as app:
        await to_thread(produce, kafka, f"{name}-in", numbers)
        await app.drained()
    messages = await to_thread(read_until, kafka, f"{name}-out", answered(5 * 39))
    assert sums_by_device(messages) == expected(numbers)
    one = messages[0]
    assert header(one, "ce_specversion") == "1.0"
    assert header(one, "ce_type") == "streamer.prediction.v1"
    assert header(one, "ce_id").startswith(f"{name}-in/{one.partition()}/")
    assert header(one, "ce_subject") == (one.key() or b"").decode()


async def test_a_record_that_is_no_event_reaches_the_dead_letters_as_it_was(kafka: str, name: str) -> None:
    async with streamer.KafkaLog(KafkaOptions(bootstrap_servers=kafka)) as log, adder(log, name) as app:
        producer = Producer({"bootstrap.servers": kafka})
        producer.produce(f"{name}-in", key=b"d1", value=b'{"value": 1}', partition=0)
        producer.produce(f"{name}-in", key=b"d1", value=b"\xff not json", headers=[("mine", b"kept")], partition=0)
        producer.produce(f"{name}-in", key=b"d1", value=b'{"value": 2}', partition=0)
        assert producer.flush(30) == 0
        await app.drained()
    (dead,) = await to_thread(read_until, kafka, f"{name}-dead", lambda found: bool(found))
    assert (dead.key(), dead.value()) == (b"d1", b"\xff not json")
    assert header(dead, "mine") == "kept"
    assert header(dead, "x-dead-coordinates") == f"{name}-in/0/1"
    assert "JSON" in header(dead, "x-dead-reason")
    assert sums_by_device(await to_thread(read_until, kafka, f"{name}-out", answered(2))) == {"d1": [1.0, 3.0]}


async def test_state_follows_its_partition_when_a_worker_joins_and_one_leaves(kafka: str, name: str) -> None:
    numbers = {f"d{n}": list(range(1, 31)) for n in range(8)}
    early = {device: values[:10] for device, values in numbers.items()}
    middle = {device: values[10:20] for device, values in numbers.items()}
    late = {device: values[20:] for device, values in numbers.items()}
    options = KafkaOptions(bootstrap_servers=kafka)
    async with AsyncExitStack() as stack:
        log, other = [await stack.enter_async_context(streamer.KafkaLog(options)) for _ in range(2)]
        staying = await stack.enter_async_context(adder(other, name))
        async with adder(log, name) as leaving:
            await to_thread(produce, kafka, f"{name}-in", early)
            await leaving.drained()
            await to_thread(produce, kafka, f"{name}-in", middle, 10)
        await to_thread(produce, kafka, f"{name}-in", late, 20)
        messages = await to_thread(read_until, kafka, f"{name}-out", answered(8 * 30))
        assert staying.status()[name].partitions == 2
    assert sums_by_device(messages) == expected(numbers)


@pytest.fixture
def worker_process(kafka: str, name: str) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts worker processes and sees to it that none stays."""
    started: list[subprocess.Popen[str]] = []
    options = json.dumps({"bootstrap": kafka, "name": name, "topic": f"{name}-in"})

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "tests" / "integration" / "adder.py"), options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "up"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_killed_three_times_mid_stream_nothing_is_lost_and_every_sum_is_right(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    rng = random.Random(7)
    numbers: dict[str, list[int]] = {f"d{n}": [] for n in range(6)}
    total = 0
    for _ in range(3):
        process = worker_process()
        more = {device: [rng.randrange(100) for _ in range(100)] for device in numbers}
        produce(kafka, f"{name}-in", more, total // len(numbers))
        total += 600
        for device, values in more.items():
            numbers[device] += values
        read_until(kafka, "predictions", mine(name, total - rng.randrange(1, 600)), partitions=2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    worker_process()
    messages = read_until(kafka, "predictions", mine(name, total), partitions=2)
    assert sums_by_device([m for m in messages if header(m, "ce_id").startswith(f"{name}-in/")]) == expected(numbers)


def mine(name: str, wanted: int) -> Callable[[list[Message]], bool]:
    """Whether that many inputs of this test's topic were answered."""
    return lambda found: len({i for m in found if (i := header(m, "ce_id")).startswith(f"{name}-in/")}) >= wanted
