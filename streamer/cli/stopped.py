"""`--wait`: commands that need a pipeline to be stopped wait until none of its workers is live."""

from __future__ import annotations

import argparse
import math

from streamer.settings import KafkaSettings, LogSettings

_PATIENCE_S = 10.0


def add_wait(parser: argparse.ArgumentParser) -> None:
    """`--wait`."""
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="S",
        help="how long to wait until no worker of the pipeline is live; one that was killed, or has a "
        f"log.group_instance_id, is for its session (default: {_PATIENCE_S:g}, on Kafka the session's time besides)",
    )


def waiting(arguments: argparse.Namespace, where: LogSettings) -> tuple[LogSettings, float]:
    """The log to wait at, and for how long, seconds."""
    if not isinstance(where, KafkaSettings):
        return where, arguments.wait or _PATIENCE_S
    # A member of that name would push a live worker aside instead of waiting for it.
    where = where.model_copy(update={"group_instance_id": None})
    return where, arguments.wait or _PATIENCE_S + where.session_timeout_s


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value
