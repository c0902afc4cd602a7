"""A worker process for the kill tests: adds up numbers from a topic until it is ended. Argument: a JSON of options."""

from __future__ import annotations

import asyncio
import json
import sys

import streamer
from streamer.log.kafka_connection import KafkaOptions
from streamer.testing.models import RunningSum


async def main() -> None:
    options = json.loads(sys.argv[1])
    kafka = KafkaOptions(
        bootstrap_servers=options["bootstrap"],
        session_timeout_s=6.0,
        heartbeat_interval_s=1.0,
        delivery=options["delivery"],
    )
    async with streamer.KafkaLog(kafka) as log:
        app = streamer.pipeline(
            streamer.wrap(RunningSum(), name="adder"),
            log=log,
            name=options["name"],
            input=streamer.InputOptions(topic=options["topic"], partitions=2),
            commit=streamer.CommitOptions(commit_interval_ms=20, snapshot_interval_ms=100),
        )
        async with app:
            print("up", flush=True)
            await app.failed()


asyncio.run(main())
