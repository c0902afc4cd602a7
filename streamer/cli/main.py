"""The command line: which command is meant, and what a failure of it means to the shell.

Exit codes: 0 done; 1 it failed while running; 2 it was called or configured wrongly. Only the module of the command
that was asked for is imported, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from streamer.cli import passed_on
from streamer.errors import ConfigurationError, StreamerError

OK, FAILED, USAGE = 0, 1, 2


class Command(NamedTuple):
    """A command's module in `streamer.cli` and its line in the list."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "run": Command("run", "run the configured pipelines and their feeds, showing live results"),
    "transcribe": Command("transcribe", "print the words of audio files or a microphone as they are spoken"),
    "monitor": Command("monitor", "print the alerts of a table of sensor events"),
    "demo": Command("demo", "people speak and machines misbehave; ends by itself within a minute"),
    "feed": Command("feed", "put a file, a device or standard input into a pipeline's input topic"),
    "tail": Command("tail", "follow a topic as text or JSON"),
    "record": Command("record", "write a topic to a file, with keys, headers and times"),
    "replay": Command("replay", "put a recorded file or a range of a topic into a topic again, or compare two runs"),
    "state": Command("state", "write a pipeline's saved states to a file, or bring them back"),
    "shadow": Command("shadow", "report how far candidates in the shadow agree with the live models"),
    "rewind": Command("rewind", "run streams again from where they began, or from an offset"),
    "topics": Command("topics", "create, or print for an administrator, the topics and access rules needed"),
    "models": Command("models", "list the models there are, or show one"),
    "devices": Command("devices", "list sound inputs and compute devices"),
    "check": Command("check", "print the resolved configuration, or every mistake in it"),
    "doctor": Command("doctor", "say what this machine can do, and how to get what is missing"),
    "train": Command("train", "train a model by its recipe"),
    "evaluate": Command("evaluate", "measure a model on recorded data"),
    "bench": Command("bench", "measure the reference workloads against their rivals"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except ConfigurationError as error:
        return _failed(error, USAGE)
    except StreamerError as error:
        return _failed(error, FAILED)
    except _model_errors() as error:
        return _failed(error, USAGE)
    except BrokenPipeError:
        # The reader of our output (`| head`) has left: that is not our failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: list[str]) -> int:
    # `python -m streamer` alone runs the configuration, and so does `python -m streamer --config FILE`.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments = ["run", *arguments]
    name = arguments[0]
    if name in passed_on.COMMANDS:
        return passed_on.run(name, arguments[1:])
    parsed = _parser(name).parse_args(arguments)
    return int(parsed.run(parsed))


class _Parser(argparse.ArgumentParser):
    """A parser that guesses what a mistyped command was meant to be."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message:
            from streamer.mistakes import did_you_mean

            word = message.partition("invalid choice: '")[2].partition("'")[0]
            if word and self.prog.endswith("streamer"):
                message = f"no command {word!r}{did_you_mean(word, COMMANDS)}"
        super().error(message)


def _parser(wanted: str) -> argparse.ArgumentParser:
    """All commands' names, and the arguments of the one that is wanted."""
    parser = _Parser(
        prog="python -m streamer",
        description="Live transcripts, predictions and alerts from recurrent networks.",
        epilog="Without a command: run the default configuration. `COMMAND --help` shows an example of each.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        shown = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == wanted and name not in passed_on.COMMANDS:
            module = importlib.import_module(f"streamer.cli.{command.module}")
            shown.epilog = "example:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
            module.add_arguments(shown)
            shown.set_defaults(run=module.run)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"streamer {version('streamer')}"
    except PackageNotFoundError:
        return "streamer (not installed)"


def _model_errors() -> tuple[type[Exception], ...]:
    """A model that cannot be loaded; evaluated only when something was raised, so that torch need not be imported."""
    contract = sys.modules.get("models.contract")
    return (contract.ModelError,) if contract else ()


def _failed(error: Exception, code: int) -> int:
    print(f"streamer: {error}", file=sys.stderr)
    return code
