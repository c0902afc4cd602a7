"""Live inference for recurrent networks: a hidden state that survives, thousands of streams on one device.

The names below are the public API; each is imported when it is first used, so that importing `streamer` costs nothing
and the engine can be had without the packages that only settings, logs or sound need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.bundle import Bundle as Bundle
    from models.bundle import wrap as wrap
    from models.contract import Outputs as Outputs
    from models.contract import Signature as Signature
    from models.contract import State as State
    from models.contract import StreamModel as StreamModel
    from streamer.app import App as App
    from streamer.codecs.audio import AudioDecoder as AudioDecoder
    from streamer.codecs.events import EventDecoder as EventDecoder
    from streamer.codecs.messages import Alert as Alert
    from streamer.codecs.messages import DeadLetter as DeadLetter
    from streamer.codecs.messages import Envelope as Envelope
    from streamer.codecs.messages import FinalTranscript as FinalTranscript
    from streamer.codecs.messages import PartialTranscript as PartialTranscript
    from streamer.codecs.messages import Prediction as Prediction
    from streamer.codecs.messages import StreamEvent as StreamEvent
    from streamer.codecs.messages import Word as Word
    from streamer.errors import StreamerError as StreamerError
    from streamer.feeds.audio_file import AudioFileFeed as AudioFileFeed
    from streamer.feeds.base import Feed as Feed
    from streamer.feeds.microphone import MicrophoneFeed as MicrophoneFeed
    from streamer.feeds.table import TableFeed as TableFeed
    from streamer.library import pipeline as pipeline
    from streamer.log.base import Log as Log
    from streamer.log.kafka import KafkaLog as KafkaLog
    from streamer.log.memory import MemoryLog as MemoryLog
    from streamer.log.sqlite import SqliteLog as SqliteLog
    from streamer.options import AlertOptions as AlertOptions
    from streamer.options import CommitOptions as CommitOptions
    from streamer.options import EngineOptions as EngineOptions
    from streamer.options import InputOptions as InputOptions
    from streamer.options import PipelineOptions as PipelineOptions
    from streamer.options import StreamOptions as StreamOptions
    from streamer.options import TranscriptOptions as TranscriptOptions
    from streamer.records import NewRecord as NewRecord
    from streamer.records import Record as Record
    from streamer.settings import Settings as Settings
    from streamer.settings import load_settings as load_settings
    from streamer.tasks.base import Task as Task

__version__ = "0.1.0"

_HOMES = {
    "models.bundle": ("Bundle", "wrap"),
    "models.contract": ("Outputs", "Signature", "State", "StreamModel"),
    "streamer.app": ("App",),
    "streamer.codecs.audio": ("AudioDecoder",),
    "streamer.codecs.events": ("EventDecoder",),
    "streamer.codecs.messages": (
        "Alert",
        "DeadLetter",
        "Envelope",
        "FinalTranscript",
        "PartialTranscript",
        "Prediction",
        "StreamEvent",
        "Word",
    ),
    "streamer.errors": ("StreamerError",),
    "streamer.feeds.audio_file": ("AudioFileFeed",),
    "streamer.feeds.base": ("Feed",),
    "streamer.feeds.microphone": ("MicrophoneFeed",),
    "streamer.feeds.table": ("TableFeed",),
    "streamer.library": ("pipeline",),
    "streamer.log.base": ("Log",),
    "streamer.log.kafka": ("KafkaLog",),
    "streamer.log.memory": ("MemoryLog",),
    "streamer.log.sqlite": ("SqliteLog",),
    "streamer.options": (
        "AlertOptions",
        "CommitOptions",
        "EngineOptions",
        "InputOptions",
        "PipelineOptions",
        "StreamOptions",
        "TranscriptOptions",
    ),
    "streamer.records": ("NewRecord", "Record"),
    "streamer.settings": ("Settings", "load_settings"),
    "streamer.tasks.base": ("Task",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'streamer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
