"""One time step of every recurrent cell, its state explicit: from the vanilla network to the layer-normalised LSTM.

A cell is what a layer does at one instant: it takes the layer below and its own state and gives its output and its new
state. Stacks of cells, dropout and connections around them are `models.layers`; the LSTM and GRU that are served by
oneDNN's kernels are `models.recurrent`. Weights lie as torch's own cells have them, so that theirs can be loaded.

Shape legend: B rows, I inputs, H hidden units, O outputs (H, or the projection).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.contract import State


class Cell(nn.Module):
    """inputs: I; hidden: H; outputs: O. A cell is called with x (B, I) and a state, and returns (B, O) and the next."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs

    @property
    def leaves(self) -> Mapping[str, int]:
        """The state's leaves and their widths: `h` alone where a cell does not say more."""
        return {"h": self.outputs}

    def init_state(self, batch: int) -> State:
        """Zeros, (B, width): the state of rows that have seen nothing."""
        like = next(self.parameters())
        return {name: like.new_zeros(batch, width) for name, width in self.leaves.items()}


class _Weighted(Cell):
    """A cell of `gates` sums W x + b + U h + d, each of H: torch's names, shapes and initialisation."""

    def __init__(self, inputs: int, hidden: int, gates: int, outputs: int) -> None:
        super().__init__(inputs, hidden, outputs)
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, outputs))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden))
        for weight in self.parameters():
            nn.init.uniform_(weight, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def from_input(self, x: Tensor) -> Tensor:
        """W x + b, (B, gates H)."""
        return functional.linear(x, self.weight_ih, self.bias_ih)

    def from_hidden(self, h: Tensor) -> Tensor:
        """U h + d, (B, gates H)."""
        return functional.linear(h, self.weight_hh, self.bias_hh)


class Vanilla(_Weighted):
    """h' = f(W x + b + U h + d), f tanh or relu. J. Elman, Finding Structure in Time, 1990; `torch.nn.RNNCell`."""

    def __init__(self, inputs: int, hidden: int, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        super().__init__(inputs, hidden, 1, hidden)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns h' (B, H) and the state that holds it."""
        total = self.from_input(x) + self.from_hidden(state["h"])
        h = torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)
        return h, {"h": h}


class Lstm(_Weighted):
    """i, f, o = sigmoid, g = tanh of the four sums; c' = f c + i g; h' = o tanh(c').

    S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997, with the forget gate of F. Gers et al., 2000, and
    without peepholes; `torch.nn.LSTMCell`. projection: O; 0 for none, otherwise h' = R o tanh(c') (H. Sak et al., Long
    Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling, 2014).
    """

    def __init__(self, inputs: int, hidden: int, projection: int = 0) -> None:
        super().__init__(inputs, hidden, 4, projection or hidden)
        self.weight_hr: nn.Parameter | None = None
        if projection:
            bound = 1 / math.sqrt(hidden)
            self.weight_hr = nn.Parameter(torch.empty(projection, hidden).uniform_(-bound, bound))

    @property
    def leaves(self) -> Mapping[str, int]:
        """`h` is what is given out, `c` the cell."""
        return {"h": self.outputs, "c": self.hidden}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns h' (B, O) and the new h and c."""
        i, f, g, o = self.sums(x, state["h"]).chunk(4, dim=1)
        c = torch.sigmoid(f) * state["c"] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.seen(c))
        if self.weight_hr is not None:
            h = functional.linear(h, self.weight_hr)
        return h, {"h": h, "c": c}

    def sums(self, x: Tensor, h: Tensor) -> Tensor:
        """What the gates are functions of, (B, 4 H): input, forget, cell, output."""
        return self.from_input(x) + self.from_hidden(h)

    def seen(self, c: Tensor) -> Tensor:
        """The cell as the output gate lets it through."""
        return c


class LayerNormLstm(Lstm):
    """An LSTM whose sums and cell are normalised: LN(W x + b) + LN(U h + d), h' = o tanh(LN(c')).

    J. Ba et al., Layer Normalization, 2016, equations 20 to 22. Each LN has a gain and a shift and is over all its
    values at once.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.norm_input, self.norm_hidden = nn.LayerNorm(4 * hidden), nn.LayerNorm(4 * hidden)
        self.norm_cell = nn.LayerNorm(hidden)

    def sums(self, x: Tensor, h: Tensor) -> Tensor:
        """Normalised, each before they are added."""
        total: Tensor = self.norm_input(self.from_input(x)) + self.norm_hidden(self.from_hidden(h))
        return total

    def seen(self, c: Tensor) -> Tensor:
        """Normalised; the cell that is carried is not."""
        normalised: Tensor = self.norm_cell(c)
        return normalised


class NormedOutputLstm(Lstm):
    """An LSTM that gives out and carries LN(h') in place of h'."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns LN(h') (B, H) and the new h, which is the same, and c."""
        h, new = super().forward(x, state)
        h = self.norm(h)
        return h, {"h": h, "c": new["c"]}


class Gru(_Weighted):
    """r, z = sigmoid of their sums; h' = (1 - z) n + z h.

    form: `torch` is n = tanh(W x + b + r (U h + d)), as cuDNN and `torch.nn.GRUCell` have it; `classic` multiplies
    before the product, n = tanh(W x + b + U (r h) + d): K. Cho et al., Learning Phrase Representations using RNN
    Encoder-Decoder, 2014, whose z is 1 - z here.
    """

    def __init__(self, inputs: int, hidden: int, form: Literal["torch", "classic"] = "torch") -> None:
        super().__init__(inputs, hidden, 3, hidden)
        self.form = form

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns h' (B, H) and the state that holds it."""
        h, width = state["h"], 2 * self.hidden
        given = self.given(x)
        if self.form == "torch":
            own = self.own(h)
            r, z = torch.sigmoid(given[:, :width] + own[:, :width]).chunk(2, dim=1)
            n = torch.tanh(given[:, width:] + r * own[:, width:])
        else:
            own = functional.linear(h, self.weight_hh[:width], self.bias_hh[:width])
            r, z = torch.sigmoid(given[:, :width] + own).chunk(2, dim=1)
            n = torch.tanh(given[:, width:] + functional.linear(r * h, self.weight_hh[width:], self.bias_hh[width:]))
        h = (1 - z) * n + z * h
        return h, {"h": h}

    def given(self, x: Tensor) -> Tensor:
        """What the input adds to the sums, (B, 3 H): reset, update, new."""
        return self.from_input(x)

    def own(self, h: Tensor) -> Tensor:
        """What the state adds to them."""
        return self.from_hidden(h)


class LayerNormGru(Gru):
    """torch's form with LN(W x + b) and LN(U h + d). J. Ba et al., Layer Normalization, 2016, section 3.1 for LSTMs."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.norm_input, self.norm_hidden = nn.LayerNorm(3 * hidden), nn.LayerNorm(3 * hidden)

    def given(self, x: Tensor) -> Tensor:
        """Normalised."""
        normalised: Tensor = self.norm_input(self.from_input(x))
        return normalised

    def own(self, h: Tensor) -> Tensor:
        """Normalised."""
        normalised: Tensor = self.norm_hidden(self.from_hidden(h))
        return normalised


class Residual(Cell):
    """What a cell gives plus a linear map of what it was given: y = cell(x) + M x.

    K. He et al., Deep Residual Learning for Image Recognition, 2016, with a projection; without one (projected false)
    M is the identity and the cell must be as wide as its input, as in Y. Wu et al., Google's Neural Machine
    Translation System, 2016.
    """

    def __init__(self, cell: Cell, *, projected: bool = True) -> None:
        super().__init__(cell.inputs, cell.hidden, cell.outputs)
        if not projected and cell.inputs != cell.outputs:
            raise ValueError(f"a residual without a projection needs as many outputs as inputs: {cell.inputs} inputs")
        self.cell = cell
        self.shortcut = nn.Linear(cell.inputs, cell.outputs, bias=False) if projected else nn.Identity()

    @property
    def leaves(self) -> Mapping[str, int]:
        """The cell's own."""
        return self.cell.leaves

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns y (B, O) and the cell's new state, which does not contain the sum."""
        y, new = self.cell(x, state)
        return y + self.shortcut(x), new


class Highway(Cell):
    """y = t cell(x) + (1 - t) x, t = sigmoid(T x + e). The cell is as wide as its input.

    R. Srivastava et al., Highway Networks, 2015; over layers of LSTMs Y. Zhang et al., Highway LSTMs, 2016. e begins at
    -1, so that a deep stack first carries its input through.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.inputs, cell.hidden, cell.outputs)
        if cell.inputs != cell.outputs:
            raise ValueError(f"a highway needs as many outputs as inputs: {cell.inputs} inputs, {cell.outputs} outputs")
        self.cell = cell
        self.gate = nn.Linear(cell.inputs, cell.outputs)
        nn.init.constant_(self.gate.bias, -1.0)

    @property
    def leaves(self) -> Mapping[str, int]:
        """The cell's own."""
        return self.cell.leaves

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x: (B, I). Returns y (B, O) and the cell's new state."""
        y, new = self.cell(x, state)
        t = torch.sigmoid(self.gate(x))
        return t * y + (1 - t) * x, new
