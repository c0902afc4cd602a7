"""Which task a model's bundle asks for, built from its settings and the pipeline's options."""

from __future__ import annotations

from models.bundle import Bundle
from models.speech.load import load_decoder
from streamer.errors import ConfigurationError
from streamer.options import PipelineOptions
from streamer.tasks.alert import AlertTask, rule_of
from streamer.tasks.base import Task
from streamer.tasks.gate import VoiceGateTask
from streamer.tasks.prediction import PredictionTask
from streamer.tasks.transcript import TranscriptTask


def build_task(bundle: Bundle, options: PipelineOptions) -> Task:
    """The task named in `model.yaml`. Raises ConfigurationError for one that streamer does not have."""
    signature = bundle.model.signature
    if bundle.task == "transcript":
        return TranscriptTask(
            load_decoder(bundle, kind=options.transcript.decoder),
            rate_hz=signature.rate_hz,
            samples_per_frame=signature.samples_per_frame,
            partial_every_ms=options.transcript.partial_every_ms,
        )
    if bundle.task == "voice_activity" and options.gate is not None:
        return VoiceGateTask(
            rule_of(bundle, options.alert),
            rate_hz=signature.rate_hz,
            pre_roll_s=options.gate.pre_roll_s,
            hang_over_s=options.gate.hang_over_s,
        )
    if options.gate is not None:
        raise ConfigurationError(f"model {bundle.name!r} cannot be a gate: that takes a voice activity model")
    if bundle.task in ("alert", "voice_activity"):
        return AlertTask.of(bundle, options.alert)
    if bundle.task == "prediction":
        return PredictionTask(signature.outputs)
    raise ConfigurationError(
        f"model {bundle.name!r} asks for task {bundle.task!r}; known are transcript, alert, voice_activity, prediction"
    )
