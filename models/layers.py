"""Deep stacks of recurrent cells over ragged rows, their state carried, with dropout between the layers.

Every frame steps all rows, and a row past its end keeps its state: no state advances over padding, whatever stands
there, and a row never feels its neighbours. Frame by frame in Python, for every cell there is; the LSTM and GRU of
`models.recurrent` run in torch's kernels.

Shape legend: B rows, F frames of the longest row, I inputs of the first cell, O outputs of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cells import Cell
from models.contract import State, merge_rows


class Stack(nn.Module):
    """Cells, one over the other.

    dropout: the share of values that is dropped between two layers while training, never from the state; variational:
    one draw for all frames of a call instead of one for each (Y. Gal and Z. Ghahramani, A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks, 2016, between layers); norm_input: batch normalisation of the
    first layer's input by the frames that are none of padding (C. Laurent et al., Batch Normalized Recurrent Neural
    Networks, 2016: on the input alone), which in use is a fixed shift and scale.
    """

    def __init__(
        self, cells: Sequence[Cell], *, dropout: float = 0.0, variational: bool = False, norm_input: bool = False
    ) -> None:
        super().__init__()
        for below, above in pairwise(cells):
            if below.outputs != above.inputs:
                raise ValueError(f"a layer gives {below.outputs} values, the one above it takes {above.inputs}")
        self.layers = nn.ModuleList(cells)
        self.dropout, self.variational = dropout, variational
        self.norm_input = nn.BatchNorm1d(cells[0].inputs) if norm_input else None
        self._cells = tuple(cells)

    @property
    def outputs(self) -> int:
        """O."""
        return self._cells[-1].outputs

    def init_state(self, batch: int) -> State:
        """Leaves `0.h`, `0.c`, `1.h`, ... (B, width): each cell's own, behind the number of its layer."""
        return {
            f"{number}.{name}": leaf
            for number, cell in enumerate(self._cells)
            for name, leaf in cell.init_state(batch).items()
        }

    def forward(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance every row by its own frames.

        x: (B, F, I); lengths: (B,) int64 with 0 <= lengths <= F; state: as of `init_state`.
        Returns the last layer's output (B, F, O), zeros in the padding, and the new state.
        """
        live = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, F)
        x = torch.where(live[..., None], x, 0.0)
        if self.norm_input is not None:
            x = _normalised(self.norm_input, x, live)
        new: State = {}
        for number, cell in enumerate(self._cells):
            if number:
                x = self._dropped(x)
            own = {name: state[f"{number}.{name}"] for name in cell.leaves}
            x, own = _over_time(cell, x, live, own)
            new |= {f"{number}.{name}": leaf for name, leaf in own.items()}
        return x, new

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        if not self.variational:
            return functional.dropout(x, self.dropout)
        return x * functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.dropout)


def _over_time(cell: Cell, x: Tensor, live: Tensor, state: State) -> tuple[Tensor, State]:
    """One layer over all frames. live: (B, F), where a row has a frame."""
    steps: list[Tensor] = []
    for frame in range(x.shape[1]):
        here = live[:, frame]
        y, new = cell(x[:, frame], state)
        steps.append(torch.where(here[:, None], y, 0.0))
        state = merge_rows(state, new, here)
    return torch.stack(steps, dim=1) if steps else x.new_zeros(x.shape[0], 0, cell.outputs), state


def _normalised(norm: nn.BatchNorm1d, x: Tensor, live: Tensor) -> Tensor:
    """Every frame that is none of padding; zeros elsewhere. Without such a frame nothing is learnt."""
    out = torch.zeros_like(x)
    if bool(live.any()) or not norm.training:
        out[live] = norm(x[live])
    return out
