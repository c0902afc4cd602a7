"""`record`: a topic, or a part of it, into a file with keys, headers and times."""

from __future__ import annotations

import argparse
import asyncio

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.cli.interrupt import run_until_interrupted
from streamer.cli.progress import progress_shown
from streamer.cli.spans import add_span, span_of

EXAMPLES = (
    "python -m streamer record audio morning.rec",
    "python -m streamer record audio call.rec --from 2024-05-01T12:00:00Z --until 2024-05-01T12:10:00Z",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", help="what to record")
    parser.add_argument("file", help="where to; it must not be there yet")
    add_span(parser)
    parser.add_argument("--follow", action="store_true", help="go on with what comes later, until Ctrl-C")
    add_config(parser)
    add_json(parser, "a report")


def run(arguments: argparse.Namespace) -> int:
    """Record. Raises TopicMissing, InputError (the file is there, or cannot be written), LogError."""
    from streamer.feeds.replay import ReplayReport, record
    from streamer.logs import log_of

    settings = settings_of(arguments)
    report = ReplayReport()

    async def main(stop: asyncio.Event) -> int:
        shown = progress_shown(f"recording {arguments.topic}", lambda: f"{report.records:,} records")
        async with log_of(settings.log) as log, shown:
            span = span_of(arguments, arguments.follow)
            await record(log, arguments.topic, arguments.file, span, stop=stop, report=report)
        return 0

    code = run_until_interrupted(main)
    if arguments.json:
        print_json({"file": arguments.file, "topic": arguments.topic, "records": report.records})
    else:
        print(f"{report.records:,} records in {arguments.file}")
    return code
