"""`demo`: people speak and machines misbehave, for less than a minute; then how well it was understood."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from streamer.cli.arguments import add_json, add_log_level, print_json, start_logging
from streamer.cli.interrupt import first_of, run_until_interrupted
from streamer.cli.recordings import Talk, data_folder
from streamer.codecs.messages import Alert, Envelope, FinalTranscript, Role
from streamer.options import (
    CommitOptions,
    EngineOptions,
    InputOptions,
    PipelineOptions,
    StreamOptions,
    TranscriptOptions,
)
from streamer.settings import MemorySettings, Settings

ROLES: tuple[Role, ...] = ("transcripts", "predictions", "alerts", "streams", "deadletters")
EXAMPLES = ("python -m streamer demo", "make demo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=40.0, help="how long people speak (default: %(default)g)")
    parser.add_argument("--folder", type=Path, help="keep what was played there (default: a temporary folder)")
    parser.add_argument("--model", default="speech-en", help="who listens (default: %(default)s)")
    parser.add_argument("--decoder", choices=("beam", "greedy"), default="beam", help="default: %(default)s")
    add_json(parser, "the summary")
    add_log_level(parser)


@dataclass(frozen=True, slots=True)
class Score:
    """How well one speaker was understood."""

    words: int
    errors: int
    word_error_rate: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run. alerts: by machine; records: stepped, by pipeline."""

    seconds: float
    speakers: dict[str, Score]
    total: Score
    machines: int
    alerts: dict[str, int]
    records: dict[str, int]


@dataclass
class Heard:
    """What came out."""

    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    alerts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def see(self, envelope: Envelope) -> None:
        """Take one message."""
        body = envelope.body
        if isinstance(body, FinalTranscript):
            self.texts[body.stream].append(body.text)
        elif isinstance(body, Alert) and body.status == "firing":
            # An alert that grows more severe fires again under the same id.
            self.alerts[body.stream].add(body.id)

    async def passing(self, outputs: AsyncIterator[Envelope]) -> AsyncIterator[Envelope]:
        """Take every message in on its way to somebody else."""
        async for envelope in outputs:
            self.see(envelope)
            yield envelope


def run(arguments: argparse.Namespace) -> int:
    """Play, show, sum up. Raises InputError where there is neither a recording nor a voice, ModelError."""
    start_logging(arguments)

    async def main(stop: asyncio.Event) -> int:
        with tempfile.TemporaryDirectory(prefix="streamer-demo-") as temporary:
            folder = arguments.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            settings = demo_settings(arguments.model, arguments.decoder)
            return await play(settings, folder, arguments.seconds, arguments.json, stop)

    return run_until_interrupted(main)


def demo_settings(model: str, decoder: Literal["beam", "greedy"]) -> Settings:
    """Two pipelines over one log in memory."""
    speech = PipelineOptions(
        input=InputOptions(topic="audio"),
        model=model,
        transcript=TranscriptOptions(decoder=decoder),
        engine=EngineOptions(max_batch=16, slots=32, threads=1),
        commit=CommitOptions(commit_interval_ms=50),
    )
    machines = PipelineOptions(
        input=InputOptions(topic="sensors", time="timestamp"),
        model="machine-forecaster",
        engine=EngineOptions(max_batch=16, slots=32, threads=1),
        streams=StreamOptions(ttl_s=10 * 365 * 86_400.0),
        commit=CommitOptions(commit_interval_ms=50),
    )
    return Settings(
        application="demo",
        log=MemorySettings(kind="memory"),
        pipelines={"speech": speech, "machines": machines},
        feeds=[],
    )


async def play(settings: Settings, folder: Path, seconds: float, as_json: bool, stop: asyncio.Event) -> int:
    """Feed people in real time and machines so fast that they are done when the people are."""
    from rich.console import Console

    from streamer.app import App
    from streamer.cli import recordings, sources
    from streamer.cli.session import feed_until
    from streamer.taps.terminal import Terminal

    console = Console(stderr=as_json)
    talks = await asyncio.to_thread(recordings.talks, folder, seconds)
    tables = await asyncio.to_thread(recordings.machines, folder)
    where = "recordings" if data_folder() else "synthesised streams (no STREAMER_DATA)"
    console.print(f"{len(talks)} people speak and {len(tables)} machines run for {seconds:.0f} s: {where}")
    feeds = [("speech", sources.audio([str(talk.path) for talk in talks], 1.0))]
    feeds += [("machines", sources.machine(path, recordings.span_s(path) / seconds)) for path in tables]
    heard = Heard()
    started = time.monotonic()
    async with App(settings) as app:
        fed = asyncio.Event()
        shown = heard.passing(app.outputs(*ROLES, until=fed))
        showing = asyncio.create_task(Terminal(console, app.status).follow(shown))
        try:
            failures = await feed_until(app, feeds, stop)
            await first_of(app.drained(), app.failed())
            fed.set()
            await showing
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        records = {name: status.records for name, status in app.status().items()}
    if failures:
        raise failures[0]
    summary = summed_up(talks, heard, records, time.monotonic() - started, len(tables))
    if as_json:
        print_json(summary)
    else:
        console.print(as_text(summary), markup=False, highlight=False)
    return 0


def summed_up(
    talks: Sequence[Talk], heard: Heard, records: Mapping[str, int], seconds: float, machines: int
) -> Summary:
    """The figures of a run."""
    speakers = {}
    for talk in talks:
        wrong, said = word_errors(talk.text, " ".join(heard.texts.get(talk.path.name, [])))
        speakers[talk.path.stem] = Score(said, wrong, wrong / max(said, 1))
    words = sum(score.words for score in speakers.values())
    errors = sum(score.errors for score in speakers.values())
    return Summary(
        seconds=round(seconds, 1),
        speakers=speakers,
        total=Score(words, errors, errors / max(words, 1)),
        machines=machines,
        alerts={machine: len(ids) for machine, ids in heard.alerts.items()},
        records=dict(records),
    )


def as_text(summary: Summary) -> str:
    """The summary for people."""
    lines = ["", f"{'speaker':24} {'words':>6} {'wrong':>6} {'word error rate':>16}"]
    for name, row in {**summary.speakers, "all": summary.total}.items():
        lines.append(f"{name:24} {row.words:6} {row.errors:6} {row.word_error_rate:16.1%}")
    lines.append("")
    lines += [f"{name}: {count} alerts" for name, count in sorted(summary.alerts.items())]
    fired = sum(summary.alerts.values())
    lines.append(f"{fired} alerts on {summary.machines} machines, {summary.seconds:g} s in all")
    return "\n".join(lines)


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """Words substituted, left out or added (Levenshtein), and words said; both texts normalised alike."""
    from torchaudio.functional import edit_distance

    from models.speech.text import normalise

    wanted = normalise(said).split()
    return int(edit_distance(wanted, normalise(heard).split())), len(wanted)
