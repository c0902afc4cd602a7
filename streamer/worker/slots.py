"""The state pool: every live stream's recurrent state, preallocated on the device, gathered and scattered by index.

Knows tensors and slot numbers; knows no stream, record or clock. One extra row behind the last slot, the spill row,
takes what must not be written anywhere: padding and rows whose step went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.contract import State, StreamModel
from models.scripted import scripted

HostState = dict[str, NDArray[np.generic]]
"""One stream's state off the device: leaf name to an array without batch dimension."""


class SlotPool:
    """`capacity` slots for the state of `model` on `device`; leaves are (capacity + 1, ...)."""

    def __init__(self, model: StreamModel, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.device = device
        fresh = model.init_state(1)
        self._fresh: State = {name: leaf.to(device) for name, leaf in fresh.items()}
        self._leaves: State = {
            name: torch.empty((capacity + 1, *leaf.shape[1:]), dtype=leaf.dtype, device=device)
            for name, leaf in fresh.items()
        }
        self._free = list(range(capacity - 1, -1, -1))
        self.reset(torch.arange(capacity + 1, device=device))

    @property
    def spill_row(self) -> int:
        """The row that is nobody's."""
        return self.capacity

    @property
    def free(self) -> int:
        """Slots that no stream holds."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Device bytes of the pool."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self._leaves.values())

    def take(self) -> int:
        """A slot holding the fresh state. Raises IndexError when none is free."""
        return self._free.pop()

    def give_back(self, slots: NDArray[np.int64]) -> None:
        """Free slots; their rows are made fresh at once, so that no later owner can see the previous one's state."""
        self.reset(torch.from_numpy(slots).to(self.device))
        self._free.extend(int(s) for s in slots)

    def reset(self, rows: Tensor) -> None:
        """Make rows fresh. rows: (n,) int64."""
        for name, leaf in self._leaves.items():
            leaf.index_copy_(0, rows, self._fresh[name].expand(len(rows), *leaf.shape[1:]))

    def gather(self, rows: Tensor) -> State:
        """A copy of rows, as a batch. rows: (B,) int64."""
        return dict(zip(self._leaves, _gather(rows, list(self._leaves.values())), strict=True))

    def scatter(self, rows: Tensor, state: State, ok: Tensor) -> None:
        """Write back the rows for which `ok` (B,) is true; the others keep what they had."""
        _scatter(ok, rows, self.spill_row, list(self._leaves.values()), [state[name] for name in self._leaves])

    def read(self, slots: NDArray[np.int64]) -> list[HostState]:
        """The state of slots on the host, in one copy a leaf."""
        rows = torch.from_numpy(slots).to(self.device)
        batch = {name: _to_numpy(leaf.index_select(0, rows)) for name, leaf in self._leaves.items()}
        return [{name: np.array(leaf[i]) for name, leaf in batch.items()} for i in range(len(slots))]

    def write(self, slots: NDArray[np.int64], states: list[Mapping[str, NDArray[np.generic]]]) -> None:
        """Put host states back, bit for bit."""
        rows = torch.from_numpy(slots).to(self.device)
        for name, leaf in self._leaves.items():
            stacked = np.stack([s[name] for s in states])
            leaf.index_copy_(0, rows, _from_numpy(stacked, leaf.dtype).to(self.device))

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to (dtype, shape) of one stream's leaves as `read` gives them: what a saved state must match."""
        return {name: (str(_to_numpy(leaf).dtype), tuple(leaf.shape[1:])) for name, leaf in self._fresh.items()}


@scripted
def _gather(rows: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.index_select(0, rows) for leaf in leaves]


@scripted
def _scatter(ok: Tensor, rows: Tensor, spill_row: int, leaves: list[Tensor], new: list[Tensor]) -> None:
    target = torch.where(ok, rows, spill_row)
    for leaf, kept in zip(leaves, new):  # noqa: B905 - TorchScript's zip has no `strict`
        leaf.index_copy_(0, target, kept.to(leaf.dtype))


def _to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    """NumPy has no bfloat16: its bits travel as int16."""
    tensor = tensor.cpu()
    return tensor.view(torch.int16).numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()


def _from_numpy(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor
