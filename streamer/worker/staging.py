"""Chunks of many streams as one padded batch on the device, through pinned host memory that is allocated once.

Knows tensors and slot numbers. On the CPU there is nothing to stage: every batch is fresh memory, so that a model may
keep or return what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Samples = NDArray[np.float32]
_RING = 2
"""Two sets of pinned buffers: one may still be read by a copy that an error left behind."""


class Batch(NamedTuple):
    """x: (B, T, C) float32, zero beyond a row's length; lengths: (B,) int64; rows: (B,) int64 into the pool."""

    x: Tensor
    lengths: Tensor
    rows: Tensor


class Staging:
    """Fills batches for `device`. channels: C; spill_row: the pool's row that is nobody's, taken by padding rows."""

    def __init__(self, channels: int, spill_row: int, device: torch.device) -> None:
        self._channels = channels
        self._spill_row = spill_row
        self._device = device
        self._ring = [_Pinned() for _ in range(_RING)] if device.type == "cuda" else []
        self._turn = 0

    def fill(
        self, slots: NDArray[np.int64], chunks: Sequence[Samples], sizes: NDArray[np.int64], batch: int, longest: int
    ) -> Batch:
        """On the host: rows 0..n-1 are the chunks, the other `batch - n` are empty. sizes: (n,), all <= `longest`."""
        shape = (batch, longest, self._channels)
        if self._ring:
            self._turn = (self._turn + 1) % _RING
            host = self._ring[self._turn].take(shape)
        else:
            host = Batch(
                torch.empty(shape), torch.empty(batch, dtype=torch.int64), torch.empty(batch, dtype=torch.int64)
            )
        x, lengths, rows = host.x.numpy(), host.lengths.numpy(), host.rows.numpy()
        n = len(slots)
        if longest and sizes.min(initial=longest) == longest:
            np.concatenate(chunks, out=x[:n].reshape(n * longest, self._channels), casting="same_kind")
            x[n:] = 0.0
        else:
            x.fill(0.0)
            for i, chunk in enumerate(chunks):
                x[i, : len(chunk)] = chunk
        lengths[:n], lengths[n:] = sizes, 0
        rows[:n], rows[n:] = slots, self._spill_row
        return host

    def put(self, host: Batch, onto: Batch | None = None) -> Batch:
        """Start the copies to the device, into new tensors or `onto` those that a graph reads; waits for nothing."""
        if onto is not None:
            for target, source in zip(onto, host, strict=True):
                target.copy_(source, non_blocking=True)
        elif self._ring:
            onto = Batch(*(part.to(self._device, non_blocking=True) for part in host))
        else:
            return host
        if self._ring:
            self._ring[self._turn].copying()
        return onto


class _Pinned:
    """One set of pinned buffers, as large as the largest batch so far; waits for its own last copy before reuse."""

    def __init__(self) -> None:
        self._x = torch.empty(0)
        self._whole = torch.empty(0, dtype=torch.int64)
        self._copied: torch.cuda.Event | None = None

    def take(self, shape: tuple[int, int, int]) -> Batch:
        if self._copied is not None:
            self._copied.synchronize()
        batch, count = shape[0], shape[0] * shape[1] * shape[2]
        if self._x.numel() < count:
            self._x = torch.empty(count, pin_memory=True)
        if self._whole.numel() < 2 * batch:
            self._whole = torch.empty(2 * batch, dtype=torch.int64, pin_memory=True)
        return Batch(self._x[:count].view(shape), self._whole[:batch], self._whole[batch : 2 * batch])

    def copying(self) -> None:
        """A copy out of these buffers was started just now."""
        if self._copied is None:
            self._copied = torch.cuda.Event()
        self._copied.record()
