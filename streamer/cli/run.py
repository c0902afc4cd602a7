"""`run`: the configured pipelines and feeds in one process, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.cli.check import check_models
from streamer.cli.interrupt import first_of, run_until_interrupted
from streamer.cli.shadow import shadowed
from streamer.codecs.messages import Envelope, Role

if TYPE_CHECKING:
    from streamer.app import App
    from streamer.feeds.base import Feed

logger = logging.getLogger(__name__)

ROLES: tuple[Role, ...] = ("transcripts", "predictions", "alerts", "streams", "deadletters")
Outputs = Callable[[], AsyncIterator[Envelope]]
EXAMPLES = (
    "python -m streamer",
    "python -m streamer run --config configs/both.yaml",
    "python -m streamer run --config configs/kafka.yaml --set log.bootstrap_servers=broker:9092 --quiet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser, "every message, one a line")
    parser.add_argument("--quiet", action="store_true", help="show nothing: others follow the topics")
    parser.add_argument("--files", metavar="FOLDER", help="also append every message to FOLDER/<kind>.jsonl")
    parser.add_argument(
        "--only",
        choices=("live", "shadow"),
        help="run the live models alone, or their shadows alone: a shadow in a process of its own, on another machine "
        "perhaps, takes no time from the live one (default: both)",
    )
    parser.add_argument(
        "--until-drained", action="store_true", help="end when the feeds have ended and all input is answered"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C. Raises ConfigurationError, InputError, LogError."""
    settings = settings_of(arguments)
    check_models(settings)
    parts = ("live", "shadow") if arguments.only is None else (arguments.only,)
    if arguments.only == "shadow":
        shadowed(settings, None)

    async def main(stop: asyncio.Event) -> int:
        from streamer.app import App
        from streamer.cli.sources import feeds_of
        from streamer.observe.process import tune_for_serving

        with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
            feeds = await asyncio.to_thread(lambda: list(feeds_of(settings, Path(folder)))) if "live" in parts else []
            if not arguments.quiet and not arguments.json:
                _say_what_runs(settings.pipelines, [feed.name for _, feed in feeds])
            async with App(settings, parts=parts) as app:
                tune_for_serving()
                logger.info("running", extra={"pipelines": ",".join(settings.pipelines), "feeds": len(feeds)})
                finished = asyncio.Event()
                taps = _taps(app, arguments, lambda: app.outputs(*ROLES, until=finished))
                with _looking_at_hangup(app):
                    await _serve(_work(app, feeds, arguments.until_drained, stop), taps, finished)
        for line in [] if arguments.quiet else _of_shadows(app):
            print(line, file=sys.stderr)
        return 0

    return run_until_interrupted(main)


@contextmanager
def _looking_at_hangup(app: App) -> Iterator[None]:
    """SIGHUP, as servers have it, makes the app look for what is new: the models' files."""
    loop = asyncio.get_running_loop()
    looks: set[asyncio.Task[None]] = set()

    def look() -> None:
        task = loop.create_task(app.look_for_models())
        looks.add(task)
        task.add_done_callback(looks.discard)

    loop.add_signal_handler(signal.SIGHUP, look)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _serve(
    work: Coroutine[Any, Any, None], taps: Iterable[Coroutine[Any, Any, None]], finished: asyncio.Event
) -> None:
    """Work until it is done and everything that came of it is shown; a tap that fails ends the work."""
    working = asyncio.ensure_future(work)
    showing = [asyncio.ensure_future(tap) for tap in taps]
    try:
        await asyncio.wait([working, *showing], return_when=asyncio.FIRST_COMPLETED)
        for task in [working, *showing]:
            if task.done():
                task.result()
        finished.set()
        await asyncio.gather(*showing)
    finally:
        for task in [working, *showing]:
            task.cancel()
        await asyncio.gather(working, *showing, return_exceptions=True)


async def _work(app: App, feeds: list[tuple[str, Feed]], until_drained: bool, stop: asyncio.Event) -> None:
    from streamer.cli.session import feed_until

    failures = await feed_until(app, feeds, stop)
    for failure in failures:
        print(f"streamer: {failure}", file=sys.stderr)
    if until_drained and not stop.is_set():
        await first_of(app.drained(), app.failed(), stop.wait())
    else:
        await first_of(stop.wait(), app.failed())


def _taps(app: App, arguments: argparse.Namespace, outputs: Outputs) -> Iterator[Coroutine[Any, Any, None]]:
    """What shows and keeps messages; each ends with the `outputs` it is given."""
    from rich.console import Console

    from streamer.taps.files import JsonLines
    from streamer.taps.lines import json_of
    from streamer.taps.terminal import Terminal

    async def to_files() -> None:
        with JsonLines(arguments.files) as files:
            await files.follow(outputs())

    async def to_json() -> None:
        async for envelope in outputs():
            print_json(json_of(envelope))

    if arguments.files:
        yield to_files()
    if arguments.json:
        yield to_json()
    elif not arguments.quiet:
        yield Terminal(Console(), app.status, notes=lambda: _of_shadows(app)).follow(outputs())


def _of_shadows(app: App) -> list[str]:
    """A line for every shadow: how far it agrees, or why it ended."""
    from streamer.observe.agreed import line_of

    return [line_of(name, status.figures, status.failure) for name, status in app.shadows().items()]


def _say_what_runs(pipelines: Iterable[str], feeds: list[str]) -> None:
    sources = ", ".join(feeds) or "none here: others write to the input topics"
    print(f"pipelines: {', '.join(pipelines)}; feeds: {sources}; Ctrl-C ends", file=sys.stderr)
