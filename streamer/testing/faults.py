"""Models that go wrong or stand still on purpose, each around a running sum; and a task that does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.contract import Outputs, State
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import RunningSum

BAD = 666.0
"""The value that makes a row go wrong."""


class NanOnBad(RunningSum):
    """A row that sees `BAD` gets NaN for its state."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        return super().step(torch.where(x == BAD, torch.nan, x), lengths, state)


class RaisesOnBad(RunningSum):
    """A batch with `BAD` in it raises: `error` makes what."""

    def __init__(self, error: Callable[[], Exception] = lambda: ValueError("a value that no model takes")) -> None:
        super().__init__()
        self._error = error

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        if bool((x == BAD).any()):
            raise self._error()
        return super().step(x, lengths, state)


class SmallMemory(RunningSum):
    """Runs out of memory above `rows` rows. `sizes`: rows of every batch that was tried."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.sizes: list[int] = []

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        self.sizes.append(len(x))
        if len(x) > self.rows:
            raise torch.OutOfMemoryError(f"no room for {len(x)} rows")
        return super().step(x, lengths, state)


class Gate:
    """Where a thread is held: `began` says that it waits, `release` lets it go on.

    Whoever stands still with it is let go after `patience_s` of real time: `gave_up` then says that nobody released it.
    """

    def __init__(self, patience_s: float = 10.0) -> None:
        self.began = threading.Event()
        self.release = threading.Event()
        self.gave_up = False
        self._patience_s = patience_s

    def wait(self) -> None:
        """Wait for `release`, which stays open afterwards."""
        self.began.set()
        if not self.release.wait(self._patience_s):
            self.gave_up = True
            self.release.set()


class Held(RunningSum):
    """Its first step waits at the gate; with `at`, the first step that sees this value."""

    def __init__(self, gate: Gate, at: float | None = None) -> None:
        super().__init__()
        self._gate = gate
        self._at = at

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        if self._at is None or bool((x == self._at).any()):
            self._gate.wait()
        return super().step(x, lengths, state)


class HeldLoad(PredictionTask):
    """A task whose saved states are read at the gate: a restore that takes its time, on the engine's thread."""

    def __init__(self, gate: Gate, names: tuple[str, ...] = ("y",)) -> None:
        super().__init__(names)
        self._gate = gate

    def load(self, data: Any) -> None:
        self._gate.wait()
