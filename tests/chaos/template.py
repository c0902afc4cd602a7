"""Imported once by the process that workers are forked from, before it has threads: what each would load first."""

from __future__ import annotations

import torch

from models.bundle import load
from streamer import app
from streamer.tasks.build import build_task
from tests.chaos import worker
from tests.chaos.history import SENSOR_MODEL, SPEECH_MODEL, options_of

__all__ = ["app", "worker"]

torch.set_num_threads(1)  # a pool of threads would not survive the fork
for _topic, _model in (("sensors", SENSOR_MODEL), ("speech", SPEECH_MODEL)):
    build_task(load(_model), options_of(_topic, _model, 1))
