"""`monitor`: predictions and alerts of a table of sensor events, or of events on standard input."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streamer.cli.arguments import add_json, add_log_level, add_speed, print_json, start_logging
from streamer.cli.interrupt import run_until_interrupted
from streamer.codecs.messages import Alert, DeadLetter, Envelope, Prediction, Role
from streamer.errors import ConfigurationError
from streamer.options import AlertOptions, CommitOptions, EngineOptions, InputOptions, PipelineOptions, StreamOptions
from streamer.settings import MemorySettings, Settings
from streamer.taps.lines import safe, text_of

if TYPE_CHECKING:
    from streamer.feeds.base import Feed

EXAMPLES = (
    "python -m streamer monitor machine.csv",
    "python -m streamer monitor plant.parquet --by device --column temperature --json",
    "cat events.jsonl | python -m streamer monitor - --column value --time timestamp",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="+", metavar="TABLE|-", help="CSV, JSON Lines or Parquet; - for JSON Lines")
    add_json(parser, "one alert a line")
    add_speed(parser, "max")
    parser.add_argument(
        "--column", action="append", help="a column of readings, may be repeated (default: every column of numbers)"
    )
    parser.add_argument("--time", help="the column with the time (default: timestamp, time, datetime or date)")
    parser.add_argument("--by", metavar="COLUMN", help="the column that names the device: one stream for each")
    parser.add_argument("--predictions", action="store_true", help="print every reading's expected band too")
    parser.add_argument("--fire-at", type=float, help="score from 0 to 1 at which an alert fires")
    parser.add_argument("--model", default="machine-forecaster", help="default: %(default)s")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Monitor. Raises InputError for what is no table and columns that are missing, ModelError."""
    start_logging(arguments)
    if arguments.fire_at is not None and not 0 <= arguments.fire_at <= 1:
        raise ConfigurationError(f"--fire-at {arguments.fire_at:g}: a score lies between 0 and 1")
    pipelines, feeds = planned(arguments)
    settings = Settings(log=MemorySettings(kind="memory"), pipelines=pipelines, feeds=[])
    columns = {name: options.input.columns[0] for name, options in pipelines.items()}
    printer = Printer(arguments.json, columns if len(pipelines) > len(feeds) else {})

    async def main(stop: asyncio.Event) -> int:
        from streamer.cli.session import feed_all

        roles: tuple[Role, ...] = ("alerts", "deadletters")
        if arguments.predictions:
            roles = (*roles, "predictions")
        await feed_all(settings, feeds, roles, printer.see, stop)
        printer.finish()
        return 1 if printer.failures else 0

    return run_until_interrupted(main)


def planned(arguments: argparse.Namespace) -> tuple[dict[str, PipelineOptions], list[tuple[str, Feed]]]:
    """One feed and topic for each table; one pipeline for each of its columns, since a model takes one."""
    from streamer.feeds.stdin import StdinFeed
    from streamer.feeds.table import TableFeed

    pipelines: dict[str, PipelineOptions] = {}
    feeds: list[tuple[str, Feed]] = []
    for number, path in enumerate(arguments.tables):
        feed: Feed
        if path == "-":
            feed, columns, time = StdinFeed(kind="events", device=arguments.by), arguments.column or ["value"], None
            time = arguments.time
        else:
            feed = TableFeed(
                path, columns=arguments.column, time=arguments.time, device=arguments.by, speed=arguments.speed
            )
            columns, time = list(feed.shape.columns), feed.shape.time
        names = [f"t{number}-{index}" for index in range(len(columns))]
        for name, column in zip(names, columns, strict=True):
            source = InputOptions(topic=f"sensors-{number}", partitions=1, columns=(column,), time=time)
            pipelines[name] = _options(source, arguments)
        feeds.append((names[0], feed))
    return pipelines, feeds


def _options(source: InputOptions, arguments: argparse.Namespace) -> PipelineOptions:
    return PipelineOptions(
        input=source,
        model=arguments.model,
        engine=EngineOptions(max_batch=64, slots=256, threads=1, chunks_per_call=64),
        # A table may hold weeks without a reading: the stream goes on.
        streams=StreamOptions(ttl_s=10 * 365 * 86_400.0),
        commit=CommitOptions(commit_interval_ms=50),
        alert=AlertOptions(fire_at=arguments.fire_at, predictions=arguments.predictions),
    )


class Printer:
    """Prints alerts as they fire and end, and at the end how many there were."""

    def __init__(self, as_json: bool, columns: Mapping[str, str]) -> None:
        """columns: the column of each pipeline, where there are several to tell apart."""
        self._json = as_json
        self._columns = columns
        self.fired: set[tuple[str, str]] = set()
        self.failures = 0

    def see(self, envelope: Envelope) -> None:
        """Take one message."""
        body = envelope.body
        column = self._columns.get(envelope.source.split("/")[2], "")
        match body:
            case Alert():
                self.fired.add((column, body.id))
                self._print(text_of(body), alert_json(body), column)
            case Prediction():
                self._print(text_of(body), {"kind": "prediction", **_reading(body)}, column)
            case DeadLetter():
                self.failures += 1
                if self.failures <= 5:
                    place = f"{body.topic}/{body.partition}/{body.offset}"
                    print(f"streamer: {place} could not be used: {safe(body.reason)}", file=sys.stderr)

    def _print(self, text: str, content: dict[str, Any], column: str) -> None:
        if self._json:
            print_json({"column": column, **content} if column else content)
        else:
            print(f"{safe(column)}  {text}" if column else text, flush=True)

    def finish(self) -> None:
        """Say how it ended, to people."""
        if self.failures > 5:
            print(f"streamer: {self.failures} readings could not be used", file=sys.stderr)
        if not self._json:
            print(f"{len(self.fired)} alerts", file=sys.stderr)


def alert_json(body: Alert) -> dict[str, Any]:
    """An alert as users of `--json` get it."""
    return {
        "stream": body.stream,
        "time": body.time,
        "status": body.status,
        "severity": body.severity,
        "score": body.score,
        "value": body.value,
        "expected": body.expected,
        "expected_low": body.low,
        "expected_high": body.high,
        "id": body.id,
        "reason": body.reason,
    }


def _reading(body: Prediction) -> dict[str, Any]:
    return {
        "stream": body.stream,
        "time": body.time,
        "value": body.value,
        "expected": body.expected,
        "expected_low": body.low,
        "expected_high": body.high,
        "score": body.score,
    }
