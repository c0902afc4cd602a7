"""`--from` and `--until`: a part of a topic by offset or by time."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from streamer.feeds.topic_source import Span


def add_span(parser: argparse.ArgumentParser) -> None:
    """`--from` and `--until`."""
    for option, what in (("--from", "first"), ("--until", "one behind the last")):
        parser.add_argument(
            option,
            dest=option.strip("-") + "_",
            metavar="OFFSET|TIME",
            type=place,
            help=f"{what} record of a topic: an offset in every partition, or a time such as 2024-05-01T12:00:00Z",
        )


def span_of(arguments: argparse.Namespace, follow: bool = False) -> Span:
    """The span that was asked for."""
    begin, end = arguments.from_, arguments.until_
    return Span(
        begin_offset=begin if isinstance(begin, int) else None,
        end_offset=end if isinstance(end, int) else None,
        begin_ms=_ms(begin) if isinstance(begin, datetime) else None,
        end_ms=_ms(end) if isinstance(end, datetime) else None,
        follow=follow,
    )


def place(text: str) -> int | datetime:
    """An offset or a time; a time without a zone is UTC. Raises ArgumentTypeError for what is neither."""
    if text.isdigit():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an offset nor a time (2024-05-01T12:00:00Z)") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
