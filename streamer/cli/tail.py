"""`tail`: follow any topic as text or JSON; records that are none of our messages are shown as they are."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.cli.interrupt import run_until_interrupted
from streamer.errors import TopicMissing
from streamer.log.base import Log
from streamer.logs import log_of
from streamer.mistakes import did_you_mean
from streamer.records import TopicPartition
from streamer.settings import Settings
from streamer.taps.lines import record_json, record_text

EXAMPLES = (
    "python -m streamer tail transcripts",
    "python -m streamer tail alerts --json --from-start --config configs/kafka.yaml",
)
ROLES = ("transcripts", "predictions", "alerts", "streams", "deadletters")
_WAIT_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", help=f"a topic, or one of {', '.join(ROLES)}: those of all pipelines")
    add_config(parser)
    add_json(parser, "one record a line")
    parser.add_argument("--from-start", action="store_true", help="begin at the oldest record kept, not at the newest")
    parser.add_argument("--until-end", action="store_true", help="stop at the end of what is there now")


def run(arguments: argparse.Namespace) -> int:
    """Print records as they come, until Ctrl-C. Raises TopicMissing."""
    settings = settings_of(arguments)

    async def main(stop: asyncio.Event) -> int:
        async with log_of(settings.log) as log:
            await follow(log, topics_meant(settings, arguments.topic), arguments, stop)
        return 0

    return run_until_interrupted(main)


def topics_meant(settings: Settings, name: str) -> list[str]:
    """The topics of a role over all pipelines, else the topic of that name."""
    if name not in ROLES:
        return [name]
    return list(dict.fromkeys(getattr(pipeline.outputs, name) for pipeline in settings.pipelines.values()))


async def follow(log: Log, names: list[str], arguments: argparse.Namespace, stop: asyncio.Event) -> None:
    """Print every record of `names` until `stop`, or with `--until-end` until all were read that are there."""
    there = await log.topics()
    if missing := [name for name in names if name not in there]:
        raise TopicMissing(f"there is no topic {missing[0]!r}{did_you_mean(missing[0], there)}")
    partitions = [TopicPartition(name, p) for name in names for p in range(there[name].partitions)]
    ranges = await log.offsets(partitions)
    start = {p: ranges[p].begin if arguments.from_start or arguments.until_end else ranges[p].end for p in partitions}
    end: Mapping[TopicPartition, int] = {p: ranges[p].end for p in partitions}
    async with log.reader(start) as reader:
        while not stop.is_set():
            if arguments.until_end and all(reader.position(p) >= end[p] for p in partitions):
                return
            for batch in await reader.read(timeout_s=_WAIT_S):
                for record in batch.records:
                    if arguments.json:
                        print_json(record_json(record))
                    else:
                        print(record_text(record), flush=True)
