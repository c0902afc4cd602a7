"""What a streaming model is: a pure step over an explicit, batch-first state.

Everything that carries context from one chunk to the next (STFT overlap, normaliser, recurrent state) is a leaf of
`State`, so a stream can be saved, moved, compared and continued bit for bit. This module knows nothing of records,
streams, slots or devices.

Shape legend: B rows (one per stream), T input samples of the longest row, C input channels, F output frames of the
longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Flat mapping of leaf name to tensor; every leaf is batch-first, (B, ...)."""

Outputs = dict[str, Tensor]
"""Flat mapping of output name to tensor, (B, F, ...); the reserved name `lengths` is (B,) int64, the valid frames."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; the runtime needs no other knowledge of it.

    input: "audio" (samples are PCM in [-1, 1] at `rate_hz`) or "events" (samples are sensor records, `rate_hz` is 0).
    channels: C, the columns of one sample.
    chunk_samples: the length the runtime prefers for one step; any other length is legal.
    samples_per_frame: input samples that one output frame advances by (1 for event models).
    latency_samples: input samples beyond a frame's start that the model must see before it gives that frame.
    outputs: names in `Outputs`, without `lengths`.
    missing: whether the model understands NaN as a missing value; other models never see one.
    """

    input: Literal["audio", "events"]
    rate_hz: int
    channels: int
    chunk_samples: int
    samples_per_frame: int
    latency_samples: int
    outputs: tuple[str, ...]
    missing: bool = False


@runtime_checkable
class StreamModel(Protocol):
    """A recurrent network that is served step by step.

    `step` is pure: it neither keeps nor mutates `state` or `x`, and a row's result depends on that row alone.
    Rows are left-aligned: row b of `x` holds `lengths[b]` valid samples, the rest is padding that no state may see.
    A row with `lengths[b] == 0` keeps its state bit for bit.
    """

    @property
    def signature(self) -> Signature: ...

    def init_state(self, batch: int) -> State:
        """The state of `batch` streams that have seen nothing."""
        ...

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """Advance every row by its own samples.

        x: (B, T, C) float32; lengths: (B,) int64 with 0 <= lengths <= T; state: leaves of (B, ...).
        Returns the outputs, (B, F, ...) with `lengths` (B,), and the new state.
        """
        ...


class ModelError(Exception):
    """A model that cannot be built or loaded: says what does not fit and where."""


def state_bytes(model: StreamModel) -> int:
    """Bytes of one stream's state."""
    return sum(leaf[0].numel() * leaf.element_size() for leaf in model.init_state(1).values())


def select_rows(state: State, rows: Tensor) -> State:
    """The rows `rows` (n,) of every leaf, as a copy."""
    return {name: leaf.index_select(0, rows) for name, leaf in state.items()}


def merge_rows(kept: State, new: State, take: Tensor) -> State:
    """`new` where `take` (B,) bool is true, `kept` elsewhere."""
    return {
        name: torch.where(take.reshape(-1, *([1] * (leaf.dim() - 1))), new[name], leaf) for name, leaf in kept.items()
    }
