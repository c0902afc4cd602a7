"""Arguments that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import logging
import os

import msgspec

from streamer.errors import ConfigurationError
from streamer.settings import Settings, load_settings


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--set` and `--log-level`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get("STREAMER_CONFIG"),
        help="settings in YAML (default: $STREAMER_CONFIG, else the built-in ones)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="override one setting, as --set pipelines.speech.engine.max_batch=32; may be repeated",
    )
    add_log_level(parser)


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """`--log-level`, of the messages about the program itself on standard error."""
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what to log about the program itself, on standard error (default: %(default)s)",
    )


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=f"{what}, as JSON for machines")


def add_speed(parser: argparse.ArgumentParser, default: str) -> None:
    """`--speed`."""
    parser.add_argument(
        "--speed",
        type=speed,
        default=speed(default),
        metavar="N",
        help=f"1 is real time, N is N times faster, max is as fast as possible (default: {default})",
    )


def speed(text: str | float) -> float:
    """A speed as the feeds take it: 0 is as fast as possible. Raises ArgumentTypeError for what is none."""
    if text == "max":
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor max")
    return value


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of `--config` and `--set`, with logging set up. Raises ConfigurationError with every mistake."""
    start_logging(arguments)
    return load_settings(arguments.config, arguments.overrides)


def start_logging(arguments: argparse.Namespace) -> None:
    """Log to standard error at `--log-level`."""
    from streamer.observe.logs import log_to_stderr

    log_to_stderr(getattr(logging, str(arguments.log_level).upper()))


def only_pipeline(settings: Settings, wanted: str | None) -> str:
    """The pipeline a command is about: the named one, or the only one. Raises ConfigurationError otherwise."""
    names = list(settings.pipelines)
    if wanted is None:
        if len(names) == 1:
            return names[0]
        raise ConfigurationError(f"say which pipeline with --pipeline: {', '.join(names)}")
    if wanted not in names:
        from streamer.mistakes import did_you_mean

        raise ConfigurationError(f"no pipeline {wanted!r}{did_you_mean(wanted, names)}")
    return wanted


def print_json(content: object) -> None:
    """One JSON object on a line of its own, at once."""
    print(msgspec.json.encode(content).decode(), flush=True)
