"""LSTM and GRU stacks over ragged rows with their hidden state carried as flat, batch-first leaves.

State never advances over padding and a row never feels its neighbours. Two ways to run ragged rows, both exact:

- `segments`: rows that still have frames run together up to the next distinct length. Every call of the kernel is
  dense, so oneDNN's fast path (bf16 too) is kept; PackedSequence would lose it. Reads the lengths on the host.
- `masked`: every frame steps all rows, and rows past their end keep their state by `where`. The shapes depend on the
  padded size alone and nothing is read on the host: for CUDA graphs and for deterministic mode.

On a CPU `nn.LSTM` lays its weights out anew in every call, which costs more than a step of a few rows. Small LSTM
batches and `masked` ones therefore go frame by frame through weights that were laid out once (`models.packed`).

Shape legend: B rows, F frames of the longest row, I input features, L layers, H hidden units.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from models.contract import State
from models.packed import PackedLstm

Cell = Literal["lstm", "gru"]
Ragged = Literal["auto", "segments", "masked"]
KERNELS = 2
"""Goes up when the same weights and input give other bits than before, so that no saved state goes on as if exact."""
PACKED_ROWS = 64
"""Up to so many rows packed frames are quicker than `nn.LSTM` on a CPU; at 64 in bf16 both are even (docs/log.md)."""


class RecurrentStack(nn.Module):
    """`layers` unidirectional LSTM or GRU layers with explicit state.

    State leaves: `h` (B, L, H) and, for the LSTM, `c` (B, L, H), always float32 whatever the weights' type: the
    kernel's own rounding is the only one. ragged: "auto" takes `masked` on CUDA and `segments` elsewhere.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int,
        cell: Cell = "lstm",
        dropout: float = 0.0,
        ragged: Ragged = "auto",
    ) -> None:
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = kind(inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.cell, self.hidden, self.layers = cell, hidden, layers
        self.ragged = ragged
        self._packed = PackedLstm()

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the state's leaves."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    @property
    def weight(self) -> Tensor:
        """The first weight: its type and device are those of the whole stack."""
        return cast(Tensor, self.rnn.weight_ih_l0)

    def init_state(self, batch: int) -> State:
        """Zeros: the state of rows that have seen nothing."""
        shape = (batch, self.layers, self.hidden)
        return {name: torch.zeros(shape, device=self.weight.device) for name in self.leaves}

    def forward(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance every row by its own frames.

        x: (B, F, I); lengths: (B,) int64 with 0 <= lengths <= F; state: as of `init_state`.
        Returns the last layer's output (B, F, H) in the weights' type, zeros in the padding, and the new state.
        """
        mode = self.ragged
        if mode == "auto":
            mode = "masked" if x.is_cuda else "segments"
        x = x.to(self.weight.dtype)
        small = mode == "masked" or len(x) <= PACKED_ROWS
        if small and isinstance(self.rnn, nn.LSTM) and self._packed.fits(self.rnn):
            out, h, c = self._packed.run(self.rnn, x, lengths, state["h"], state["c"])
            return out, {"h": h, "c": c}
        run = self._masked if mode == "masked" else self._segments
        return run(x, lengths, {name: state[name] for name in self.leaves})

    def dense(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """All rows over all frames, for equal lengths: (B, F, I) to (B, F, H)."""
        parts = tuple(state[name].transpose(0, 1).to(x.dtype).contiguous() for name in self.leaves)  # (L, B, H)
        out, last = self.rnn(x.contiguous(), parts if self.cell == "lstm" else parts[0])
        leaves = last if self.cell == "lstm" else (last,)
        return out, {name: leaf.transpose(0, 1).float() for name, leaf in zip(self.leaves, leaves, strict=True)}

    def _segments(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        out = x.new_zeros(x.shape[0], x.shape[1], self.hidden)
        ends = sorted(set(lengths.tolist()) - {0})
        if ends == [x.shape[1]] and bool((lengths > 0).all()):
            return self.dense(x, state)
        state = {name: leaf.clone() for name, leaf in state.items()}
        start = 0
        for end in ends:
            rows = (lengths >= end).nonzero().flatten()
            part, new = self.dense(x[rows, start:end], {name: leaf[rows] for name, leaf in state.items()})
            out[rows, start:end] = part
            for name, leaf in new.items():
                state[name][rows] = leaf
            start = end
        return out, state

    def _masked(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        steps: list[Tensor] = []
        for frame in range(x.shape[1]):
            live = lengths > frame
            part, new = self.dense(x[:, frame : frame + 1], state)
            steps.append(torch.where(live[:, None, None], part, 0.0))
            state = {name: torch.where(live[:, None, None], new[name], state[name]) for name in state}
        out = torch.cat(steps, dim=1) if steps else x.new_zeros(x.shape[0], 0, self.hidden)
        return out, state
