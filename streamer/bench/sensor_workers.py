"""W3's job in processes of their own, as it is run on a machine of several cores: workers of one consumer group.

    python -m streamer.bench.sensor_workers BOOTSTRAP APPLICATION TOPIC PARTITIONS DELIVERY

is one of them: it writes how many partitions it holds, one JSON number a line whenever that changes, and when its input
is closed, how late a 5 ms timer of its event loop was, as one list of seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch

from streamer.bench import sensor_job
from streamer.bench.kafka_rivals import Hidden
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.kafka_connection import Delivery
from streamer.observe.process import tune_for_serving
from streamer.records import NewRecord

LOOK_S = 0.01


class SensorRun(NamedTuple):
    """One run. lags_s: how late a 5 ms timer of a worker's event loop was, each time, all workers'."""

    records_per_s: float
    lags_s: Sequence[float]


async def run(
    log: Log,
    bootstrap: str,
    application: str,
    topic: str,
    records: Sequence[Sequence[NewRecord]],
    workers: int,
    delivery: Delivery = "at_least_once",
) -> SensorRun:
    """Answer `records` (by partition) once with so many worker processes.

    Timed from the moment at which all can be read, the group being complete, to the last answer committed: they are
    written in a transaction, which is committed then.
    """
    partitions = len(records)
    async with Hidden(bootstrap, topic) as hidden:
        await sensor_job.create_topics(log, application, topic, partitions)
        await hidden.write(records)
        arguments = [bootstrap, application, topic, str(partitions), delivery]
        processes = [await _start(arguments) for _ in range(workers)]
        try:
            await _complete(processes, partitions)
            start = time.perf_counter()
            await hidden.show()
            await sensor_job.all_published(log, application, partitions, sum(map(len, records)))
            taken_s = time.perf_counter() - start
            lags = [late for process in processes for late in await _end(process)]
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    return SensorRun(sum(map(len, records)) / taken_s, lags)


async def _start(arguments: Sequence[str]) -> Process:
    command = [sys.executable, "-m", "streamer.bench.sensor_workers", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 26)


async def _complete(processes: Sequence[Process], partitions: int) -> None:
    """Wait until the partitions are shared out evenly."""
    held = [0] * len(processes)
    share = partitions // len(processes)

    async def follow(number: int) -> None:
        output = processes[number].stdout
        assert output is not None
        while sum(held) != partitions or min(held) < share:
            if not (line := await output.readline()):
                raise RuntimeError("a worker of the bench ended early: see above")
            held[number] = json.loads(line)

    followers = [asyncio.create_task(follow(number)) for number in range(len(processes))]
    done, pending = await asyncio.wait(followers, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def _end(process: Process) -> list[float]:
    output, _ = await process.communicate(b"")  # closes its input
    lags: list[float] = json.loads(output.splitlines()[-1])
    return lags


async def _serve(options: KafkaOptions, application: str, topic: str, partitions: int) -> None:
    """Be one worker until standard input is closed."""
    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    lags: list[float] = []
    async with (
        KafkaLog(options) as log,
        sensor_job.worker(log, application, topic, partitions) as served,
    ):
        ticking = asyncio.create_task(sensor_job.tick(lags))
        said = -1
        while not closed.done():
            if said != (said := served.status().partitions):
                print(said, flush=True)
            await asyncio.wait([closed], timeout=LOOK_S if not served.status().records else 1.0)
        ticking.cancel()
    print(json.dumps(lags))


def main() -> None:
    bootstrap, application, topic, partitions, delivery = sys.argv[1:]
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # the group rebalances when the second worker joins
    torch.set_num_threads(1)  # the broker and the other workers need the other cores
    tune_for_serving()
    options = KafkaOptions(bootstrap_servers=bootstrap, delivery=cast(Delivery, delivery))
    asyncio.run(_serve(options, application, topic, int(partitions)))


if __name__ == "__main__":
    main()
