"""`replay`: a recording, or a part of a topic, into a topic again, at any speed; or two runs' outputs compared."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time

from streamer.cli.arguments import add_config, add_json, add_speed, print_json, settings_of
from streamer.cli.interrupt import run_until_interrupted
from streamer.cli.progress import progress_shown
from streamer.cli.spans import add_span, span_of
from streamer.log.base import Log, TopicSpec

EXAMPLES = (
    "python -m streamer replay morning.rec --to audio --speed max",
    "python -m streamer replay audio --to audio-again --from 1000 --until 2000",
    "python -m streamer replay --compare before.rec transcripts --tolerance 0.001",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", help="a file that `record` wrote, or a topic")
    parser.add_argument("--to", metavar="TOPIC", help="where to; it is created where it is missing")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="replay nothing: compare what two runs published, each a topic or a file that `record` wrote; messages "
        "are matched by ce_id, ce_source and model are not compared; exit code 0 when equal, 1 when not",
    )
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="X",
        help="with --compare: how far apart two measures may lie (default: 0); counts are compared exactly",
    )
    add_span(parser)
    add_speed(parser, "1")
    parser.add_argument(
        "--same-sessions",
        action="store_true",
        help="keep the sessions' names: a worker that has seen them already passes the records over",
    )
    add_config(parser)
    add_json(parser, "a report (with --compare one difference a line)")
    parser.set_defaults(misused=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Replay or compare. Raises InputError for a source that is neither a recording nor a topic, LogError."""
    if arguments.compare:
        if arguments.source or arguments.to or arguments.same_sessions:
            arguments.misused("--compare reads two runs and replays nothing: it takes no source and no --to")
        from streamer.cli import compare

        return compare.run(arguments)
    if arguments.tolerance is not None:
        arguments.misused("--tolerance is for --compare")
    if not (arguments.source and arguments.to):
        arguments.misused("a source and --to TOPIC are needed, or --compare A B")
    return _replay(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from streamer.feeds.replay import FileSource, ReplayFeed, ReplayReport, open_source, replay
    from streamer.logs import log_of

    settings = settings_of(arguments)
    report = ReplayReport()

    async def main(stop: asyncio.Event) -> int:
        async with log_of(settings.log) as log:
            source, partitions = await open_source(arguments.source, log, span_of(arguments))
            await _ensure(log, arguments.to, partitions)
            suffix = "" if arguments.same_sessions else f"-replay-{time.time_ns() // 1_000_000:x}"
            feed = ReplayFeed(source, speed=arguments.speed, session_suffix=suffix)
            async with progress_shown(f"replaying {arguments.source}", lambda: f"{report.records:,} records"):
                await replay(feed, log, arguments.to, partitions, stop=stop, report=report)
            if isinstance(source, FileSource):
                report.truncated = source.recording.truncated
        return 0

    code = run_until_interrupted(main)
    if arguments.json:
        print_json(
            {"source": arguments.source, "to": arguments.to, "records": report.records, "truncated": report.truncated}
        )
    else:
        print(f"{report.records:,} records to {arguments.to}")
        if report.truncated:
            print(f"streamer: {arguments.source} was cut off: what was whole is replayed", file=sys.stderr)
    return code


def tolerance(text: str) -> float:
    """A tolerance: a number that is not negative. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return value


async def _ensure(log: Log, topic: str, partitions: int) -> None:
    if topic not in await log.topics():
        await log.create_topics([TopicSpec(topic, partitions)])
