"""`transcribe`: the words of files, a microphone or standard input, printed as they are spoken."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from streamer.cli.arguments import add_json, add_log_level, add_speed, print_json, start_logging
from streamer.cli.interrupt import run_until_interrupted
from streamer.codecs.messages import DeadLetter, Envelope, FinalTranscript, PartialTranscript, Role, StreamEvent
from streamer.errors import ConfigurationError
from streamer.options import CommitOptions, EngineOptions, InputOptions, PipelineOptions, TranscriptOptions
from streamer.settings import MemorySettings, Settings
from streamer.taps.lines import safe

if TYPE_CHECKING:
    from streamer.feeds.base import Feed

EXAMPLES = (
    "python -m streamer transcribe talk.wav interview.mp3",
    "python -m streamer transcribe mic",
    "arecord -f S16_LE -r 16000 | python -m streamer transcribe - --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="FILE|mic|-", help="audio files, folders, mic, or - for standard input"
    )
    add_json(parser, "one final transcript a line, with the times of its words")
    add_speed(parser, "max")
    parser.add_argument("--model", default="speech-en", help="a model of the zoo or a folder (default: %(default)s)")
    parser.add_argument("--device", help="which microphone: a name, a part of it, or a number from `devices`")
    parser.add_argument("--decoder", choices=("beam", "greedy"), default="beam", help="default: %(default)s")
    parser.add_argument("--rate-hz", type=int, default=16_000, help="of raw audio on standard input")
    parser.add_argument("--channels", type=int, default=1, help="of raw audio on standard input")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Transcribe. Raises InputError for what is no audio and devices that there are not, ModelError."""
    start_logging(arguments)
    feeds = list(feeds_of(arguments))
    settings = Settings(
        log=MemorySettings(kind="memory"),
        pipelines={"speech": options_of(arguments)},
        feeds=[],
    )

    async def main(stop: asyncio.Event) -> int:
        from streamer.cli.session import feed_all

        printer = Printer(arguments.json, interactive=sys.stdout.isatty(), several=_several(arguments))
        roles: tuple[Role, ...] = ("transcripts", "streams", "deadletters")
        await feed_all(settings, [("speech", feed) for feed in feeds], roles, printer.see, stop)
        printer.finish()
        return 1 if printer.failures else 0

    return run_until_interrupted(main)


def options_of(arguments: argparse.Namespace) -> PipelineOptions:
    """A pipeline for one run: frequent commits, so that words are seen early."""
    return PipelineOptions(
        input=InputOptions(topic="audio"),
        model=arguments.model,
        engine=EngineOptions(max_batch=32, slots=64),
        commit=CommitOptions(commit_interval_ms=50),
        transcript=TranscriptOptions(decoder=arguments.decoder),
    )


def feeds_of(arguments: argparse.Namespace) -> Iterator[Feed]:
    """Files together are one feed, the microphone and standard input one each."""
    from streamer.cli import sources

    files = [source for source in arguments.sources if source not in ("mic", "-")]
    if arguments.sources.count("-") > 1 or arguments.sources.count("mic") > 1:
        raise ConfigurationError("the microphone and standard input can be named once")
    if arguments.device is not None and "mic" not in arguments.sources:
        raise ConfigurationError("--device chooses a microphone: add mic to what is transcribed")
    if files:
        yield sources.audio(files, arguments.speed)
    if "mic" in arguments.sources:
        yield sources.microphone(arguments.device)
    if "-" in arguments.sources:
        from streamer.feeds.stdin import StdinFeed

        yield StdinFeed(kind="pcm", rate_hz=arguments.rate_hz, channels=arguments.channels)


def _several(arguments: argparse.Namespace) -> bool:
    """Whether lines must say whose words they are."""
    from pathlib import Path

    return len(arguments.sources) > 1 or Path(arguments.sources[0]).is_dir()


class Printer:
    """Prints finals as lines; on a terminal the words heard so far stand in the last line until their final comes."""

    def __init__(self, as_json: bool, interactive: bool, several: bool) -> None:
        self._json = as_json
        self._live = interactive and not as_json
        self._several = several
        self.failures = 0

    def see(self, envelope: Envelope) -> None:
        """Take one message."""
        body = envelope.body
        match body:
            case FinalTranscript():
                self._final(body)
            case PartialTranscript() if self._live:
                self._partial(body)
            case DeadLetter():
                self.failures += 1
                self._notice(f"{body.topic}/{body.partition}/{body.offset} could not be used: {body.reason}")
            case StreamEvent() if body.event in ("gap", "reset"):
                self._notice(f"{body.stream}: {body.event} at {body.time}{': ' if body.reason else ''}{body.reason}")

    def finish(self) -> None:
        """Leave the terminal with a clean line."""
        self._clear()

    def _final(self, body: FinalTranscript) -> None:
        if self._json:
            print_json(final_json(body))
        elif body.text:
            self._clear()
            print(f"{safe(body.stream)}: {body.text}" if self._several else body.text, flush=True)

    def _partial(self, body: PartialTranscript) -> None:
        import shutil

        text = f"{safe(body.stream)}: {body.text}" if self._several else body.text
        width = shutil.get_terminal_size().columns - 1
        # Dim; the end of a long line is what is being said.
        print(f"\r\x1b[2K\x1b[2m{text[-width:]}\x1b[0m", end="", flush=True)

    def _notice(self, text: str) -> None:
        self._clear()
        print(f"streamer: {safe(text)}", file=sys.stderr)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", flush=True)


def final_json(body: FinalTranscript) -> dict[str, Any]:
    """A final as users of `--json` get it; times are seconds from the stream's first sample."""
    return {
        "stream": body.stream,
        "text": body.text,
        "start_s": body.start_s,
        "end_s": body.end_s,
        "confidence": body.confidence,
        "words": [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": w.confidence} for w in body.words
        ],
    }
