"""streamer as a library: one pipeline in a few lines, with a zoo model or a network of one's own.

async with streamer.pipeline("speech-en") as app:
    await app.feed(streamer.AudioFileFeed(["hello.wav"], speed=0))
    async for output in app.outputs("transcripts", until_drained=True):
        print(output.body)
"""

from __future__ import annotations

from models.bundle import Bundle
from streamer.app import App
from streamer.codecs.base import Decoder
from streamer.log.base import Log
from streamer.options import (
    AlertOptions,
    CommitOptions,
    EngineOptions,
    InputOptions,
    PipelineOptions,
    StreamOptions,
    TranscriptOptions,
)
from streamer.settings import MemorySettings, Settings
from streamer.tasks.base import Task

COMMIT = CommitOptions(commit_interval_ms=20)


def pipeline(
    model: str | Bundle,
    *,
    log: Log | None = None,
    name: str = "main",
    input: InputOptions | None = None,
    engine: EngineOptions | None = None,
    streams: StreamOptions | None = None,
    commit: CommitOptions = COMMIT,
    transcript: TranscriptOptions | None = None,
    alert: AlertOptions | None = None,
    decoder: Decoder | None = None,
    task: Task | None = None,
) -> App:
    """An app with one pipeline, to be entered with `async with`.

    model: a name in the zoo, a folder, or a bundle (`streamer.wrap` makes one of any StreamModel). log: an open log;
    None is one in memory, gone with the app. decoder, task: one's own instead of those that fit the model.
    Everything else has the meaning of `PipelineOptions`.
    """
    options = PipelineOptions(
        input=input or InputOptions(topic=f"{name}-input", partitions=1),
        model=model if isinstance(model, str) else model.name,
        engine=engine or EngineOptions(),
        streams=streams or StreamOptions(),
        commit=commit,
        transcript=transcript or TranscriptOptions(),
        alert=alert or AlertOptions(),
    )
    settings = Settings(log=MemorySettings(kind="memory"), pipelines={name: options}, feeds=[])
    return App(
        settings,
        log=log,
        models={} if isinstance(model, str) else {name: model},
        decoders={} if decoder is None else {name: decoder},
        tasks={} if task is None else {name: task},
    )
