"""`feed`: a file, a device or standard input into a pipeline's input topic, for workers that run elsewhere."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.cli.arguments import add_config, add_json, add_speed, only_pipeline, print_json, settings_of
from streamer.cli.interrupt import run_until_interrupted
from streamer.cli.progress import progress_shown
from streamer.errors import ConfigurationError

if TYPE_CHECKING:
    from streamer.feeds.base import Feed
    from streamer.options import InputOptions

EXAMPLES = (
    "python -m streamer feed talk.wav --speed 1",
    "python -m streamer feed mic --config configs/kafka.yaml",
    "arecord -f S16_LE -r 16000 | python -m streamer feed -",
    "python -m streamer feed machine.csv --config configs/sensors.yaml --speed 1000",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="FILE|mic|-", help="audio files, folders, tables, recordings, mic, or -"
    )
    parser.add_argument("--pipeline", help="whose input topic; may be left out where there is one pipeline")
    add_speed(parser, "max")
    parser.add_argument("--again", action="store_true", help="feed files that were fed before, as new streams")
    parser.add_argument("--device", help="which microphone: a name, a part of it, or a number from `devices`")
    parser.add_argument("--stream", help="what the stream of a microphone or of standard input is called")
    parser.add_argument("--by", metavar="COLUMN", help="the column of a table that names the device")
    parser.add_argument("--rate-hz", type=int, help="of raw audio on standard input (default: the pipeline's)")
    parser.add_argument("--channels", type=int, help="of raw audio on standard input (default: the pipeline's)")
    add_config(parser)
    add_json(parser, "a report")


def run(arguments: argparse.Namespace) -> int:
    """Feed until the sources end, or Ctrl-C. Raises InputError, ConfigurationError, LogError."""
    from streamer.feeds.pump import PumpReport, pump
    from streamer.log.base import TopicSpec
    from streamer.logs import log_of

    settings = settings_of(arguments)
    name = only_pipeline(settings, arguments.pipeline)
    options = settings.pipelines[name].input
    feeds = feeds_of(arguments, options)
    reports = [PumpReport() for _ in feeds]

    async def main(stop: asyncio.Event) -> int:
        shown = progress_shown("feeding", lambda: f"{sum(r.records for r in reports):,} records to {options.topic}")
        async with log_of(settings.log) as log, shown:
            if options.topic not in await log.topics():
                await log.create_topics([TopicSpec(options.topic, options.partitions)])
            pumps = [
                pump(feed, log, options.topic, stop=stop, report=report)
                for feed, report in zip(feeds, reports, strict=True)
            ]
            await asyncio.gather(*pumps)
        return 0

    code = run_until_interrupted(main)
    totals = {n: sum(getattr(r, n) for r in reports) for n in PumpReport.__slots__}
    if arguments.json:
        print_json({"topic": options.topic, **totals})
    else:
        skipped = f", {totals['skipped_records']:,} were there already" if totals["skipped_records"] else ""
        dropped = f", {totals['dropped_records']:,} dropped and marked" if totals["dropped_records"] else ""
        print(f"{totals['records']:,} records to {options.topic}{skipped}{dropped}")
    return code


def feeds_of(arguments: argparse.Namespace, options: InputOptions) -> list[Feed]:
    """One feed for all audio files, one for each other source. Raises InputError, ConfigurationError."""
    from streamer.cli import sources
    from streamer.feeds.audio_file import AudioFileFeed
    from streamer.feeds.stdin import StdinFeed
    from streamer.feeds.table import TableFeed

    feeds: list[Feed] = []
    sounds: list[str] = []
    for source in arguments.sources:
        if source == "mic":
            feeds.append(sources.microphone(arguments.device, arguments.stream))
        elif source == "-":
            feeds.append(
                StdinFeed(
                    stream=arguments.stream or "stdin",
                    rate_hz=arguments.rate_hz or options.rate_hz,
                    channels=arguments.channels or options.channels,
                    device=arguments.by,
                )
            )
        elif Path(source).suffix.lower() == ".rec":
            feeds.append(sources.recording(source, arguments.speed))
        elif Path(source).suffix.lower() in sources.TABLES:
            feed = TableFeed(
                source,
                columns=options.columns,
                time=options.time,
                device=arguments.by,
                speed=arguments.speed,
                again=arguments.again,
            )
            feeds.append(feed)
        else:
            sounds.append(source)
    if arguments.device is not None and "mic" not in arguments.sources:
        raise ConfigurationError("--device chooses a microphone: add mic to what is fed")
    if sounds:
        feeds.append(AudioFileFeed(sounds, speed=arguments.speed, again=arguments.again))
    return feeds
