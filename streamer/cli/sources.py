"""What people point at - a file, a device, standard input, an entry of `feeds:` - made into feeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING

from streamer.errors import InputError
from streamer.settings import (
    AudioFilesSettings,
    DemoSettings,
    FeedSettings,
    MicrophoneSettings,
    ReplaySettings,
    Settings,
    StdinSettings,
    TableSettings,
)

if TYPE_CHECKING:
    from streamer.feeds.base import Feed

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq"})
DEMO_TALK_S = 45.0
MACHINE_SPEED = 120_000.0
"""Recorded machines report every five minutes: at this speed that is 400 readings a second."""


def feeds_of(settings: Settings, folder: Path) -> Iterator[tuple[str, Feed]]:
    """The configured feeds, each with its pipeline; `folder` takes what has to be synthesised.

    Raises InputError for what is not there or not what it should be.
    """
    for entry in settings.feeds:
        for feed in _of(entry, settings, folder):
            yield entry.pipeline, feed


def _of(entry: FeedSettings, settings: Settings, folder: Path) -> Iterator[Feed]:
    options = settings.pipelines[entry.pipeline].input
    match entry:
        case MicrophoneSettings():
            yield from _microphone(entry, folder)
        case AudioFilesSettings():
            yield audio(entry.paths, _speed(entry.speed))
        case TableSettings():
            for path in entry.paths:
                columns = tuple(entry.columns) if entry.columns else options.columns
                yield table(path, columns, entry.time or options.time, entry.stream, _speed(entry.speed))
        case StdinSettings():
            from streamer.feeds.stdin import StdinFeed

            if entry.format == "jsonl":
                yield StdinFeed(kind="events", stream=entry.stream)
            else:
                yield StdinFeed(kind="pcm", stream=entry.stream, rate_hz=entry.rate_hz, channels=entry.channels)
        case ReplaySettings():
            yield recording(entry.path, _speed(entry.speed))
        case DemoSettings(streams="speech"):
            yield demo_speech(folder)
        case DemoSettings():
            yield from demo_machines(folder)


def microphone(device: str | int | None, stream: str | None = None, buffer_s: float = 10.0) -> Feed:
    """A sound input. Raises InputError for a device that there is not, naming those that there are."""
    from streamer.feeds.microphone import MicrophoneFeed

    return MicrophoneFeed(device, stream=stream or "mic", buffer_s=buffer_s)


def audio(paths: list[str], speed: float, again: bool = False) -> Feed:
    """Audio files and folders, every file a stream. Raises InputError for what is missing."""
    from streamer.feeds.audio_file import AudioFileFeed

    return AudioFileFeed(list(paths), speed=speed, again=again)


def table(path: str, columns: tuple[str, ...] | None, time: str | None, device: str | None, speed: float) -> Feed:
    """Sensor events. Raises InputError for a file that is no table and for columns that are missing."""
    from streamer.feeds.table import TableFeed

    return TableFeed(path, columns=columns, time=time, device=device, speed=speed)


def recording(path: str, speed: float) -> Feed:
    """What `record` wrote. Raises InputError for a file that is none."""
    from streamer.feeds.recording import Recording
    from streamer.feeds.replay import FileSource, ReplayFeed

    return ReplayFeed(FileSource(Recording(path)), speed=speed, session_suffix=f"-{time_ns():x}")


def demo_speech(folder: Path) -> Feed:
    """People who speak, in real time."""
    from streamer.cli.recordings import talks

    return audio([str(talk.path) for talk in talks(folder, DEMO_TALK_S)], 1.0, again=True)


def demo_machines(folder: Path) -> Iterator[Feed]:
    """Machines that misbehave, fast."""
    from streamer.cli.recordings import machines

    for path in machines(folder):
        yield machine(path, MACHINE_SPEED)


def machine(path: Path, speed: float) -> Feed:
    """One of the machines that come with the project; every run is a new stream."""
    from streamer.feeds.table import TableFeed

    return TableFeed(path, columns=("value",), time="timestamp", speed=speed, again=True)


def has_microphone() -> bool:
    """Whether there is a sound input, and PortAudio to read it."""
    from streamer.feeds.microphone import devices

    try:
        return bool(devices())
    except InputError:
        return False


def _microphone(entry: MicrophoneSettings, folder: Path) -> Iterator[Feed]:
    if entry.if_absent == "demo" and entry.device is None and not has_microphone():
        yield demo_speech(folder)
    else:
        yield microphone(entry.device, entry.stream, entry.buffer_s)


def _speed(speed: float | str) -> float:
    return 0.0 if isinstance(speed, str) else speed
