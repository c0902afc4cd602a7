"""From a Kafka topic to Kafka topics, produced and read by another client (confluent-kafka) than streamer's own."""

from __future__ import annotations

import random
import signal
import subprocess
from asyncio import to_thread
from collections.abc import Callable
from contextlib import AsyncExitStack

from confluent_kafka import Producer

import streamer
from streamer.log.kafka_connection import KafkaOptions
from streamer.testing.models import RunningSum
from tests.integration.kafka_numbers import answered, expected, header, mine, produce, read_until, sums_by_device


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
