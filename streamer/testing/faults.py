"""Models that go wrong on purpose, each around a running sum: for tests of what a bad row may do to others."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from models.contract import Outputs, State
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


class Held(RunningSum):
    """Its first step waits for `release`; `began` says that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.release = threading.Event()

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        self.began.set()
        self.release.wait()
        return super().step(x, lengths, state)
