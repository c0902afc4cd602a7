"""Recurrent cells: torch's own where torch has them, their equations in float64 where not, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import cells
from models.cells import Cell
from models.contract import State

INPUTS, HIDDEN, ROWS = 5, 4, 3
Array = NDArray[np.float64]
CELLS: dict[str, Callable[[], Cell]] = {
    "vanilla tanh": lambda: cells.Vanilla(INPUTS, HIDDEN),
    "vanilla relu": lambda: cells.Vanilla(INPUTS, HIDDEN, "relu"),
    "lstm": lambda: cells.Lstm(INPUTS, HIDDEN),
    "projected lstm": lambda: cells.Lstm(INPUTS, HIDDEN, projection=3),
    "layer-norm lstm": lambda: cells.LayerNormLstm(INPUTS, HIDDEN),
    "normed-output lstm": lambda: cells.NormedOutputLstm(INPUTS, HIDDEN),
    "gru": lambda: cells.Gru(INPUTS, HIDDEN),
    "classic gru": lambda: cells.Gru(INPUTS, HIDDEN, "classic"),
    "layer-norm gru": lambda: cells.LayerNormGru(INPUTS, HIDDEN),
    "residual lstm": lambda: cells.Residual(cells.Lstm(INPUTS, HIDDEN)),
    "residual gru of equal widths": lambda: cells.Residual(cells.Gru(INPUTS, INPUTS), projected=False),
    "highway lstm": lambda: cells.Highway(cells.Lstm(INPUTS, INPUTS)),
}
EVERY_CELL = pytest.mark.parametrize("make", CELLS.values(), ids=CELLS.keys())


def made(make: Callable[[], Cell]) -> Cell:
    torch.manual_seed(0)
    cell = make().double()
    for weight in cell.parameters():  # gains and shifts of ones and zeros would hide where they stand
        nn.init.uniform_(weight, -0.9, 0.9)
    return cell


def some(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_state(cell: Cell) -> State:
    return {name: some(ROWS, width, 1 + place) for place, (name, width) in enumerate(cell.leaves.items())}


def close(left: Tensor, right: Tensor | Array) -> None:
    np.testing.assert_allclose(left.detach().numpy(), np.asarray(right), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (cells.Vanilla(INPUTS, HIDDEN), nn.RNNCell(INPUTS, HIDDEN)),
        (cells.Vanilla(INPUTS, HIDDEN, "relu"), nn.RNNCell(INPUTS, HIDDEN, nonlinearity="relu")),
        (cells.Lstm(INPUTS, HIDDEN), nn.LSTMCell(INPUTS, HIDDEN)),
        (cells.Gru(INPUTS, HIDDEN), nn.GRUCell(INPUTS, HIDDEN)),
    ],
    ids=["tanh", "relu", "lstm", "gru"],
)
def test_cells_that_torch_has_take_its_weights_and_give_its_numbers(mine: Cell, theirs: nn.RNNCellBase) -> None:
    mine.double().load_state_dict(theirs.double().state_dict())
    x, state = some(ROWS, INPUTS, 0), some_state(mine)
    y, new = mine(x, state)
    wanted = theirs(x, (state["h"], state["c"])) if "c" in state else (theirs(x, state["h"]),)
    close(y, wanted[0].detach())
    for leaf, right in zip(("h", "c"), wanted, strict=False):
        close(new[leaf], right.detach())


def test_the_projected_lstm_is_torchs() -> None:
    theirs = nn.LSTM(INPUTS, HIDDEN, proj_size=3).double()
    mine = cells.Lstm(INPUTS, HIDDEN, projection=3).double()
    mine.load_state_dict({name.removesuffix("_l0"): weight for name, weight in theirs.state_dict().items()})
    x, state = some(ROWS, INPUTS, 0), some_state(mine)
    y, new = mine(x, state)
    wanted, (h, c) = theirs(x[None], (state["h"][None], state["c"][None]))
    close(y, wanted[0].detach())
    close(new["h"], h[0].detach())
    close(new["c"], c[0].detach())


# ---------------------------------------------------------------------- the equations, in NumPy and float64


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def normed(a: Array, weights: dict[str, Array], name: str) -> Array:
    """Over the last dimension, the variance's epsilon as torch has it."""
    apart = a - a.mean(-1, keepdims=True)
    scaled = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5)
    shifted: Array = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return shifted


def sums(w: dict[str, Array], x: Array, h: Array) -> tuple[Array, Array]:
    return x @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]


def lstm(total: Array, c: Array, see: Callable[[Array], Array] = lambda c: c) -> tuple[Array, Array]:
    i, f, g, o = np.split(total, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(see(c)), c


def layer_norm_lstm(w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    given, own = sums(w, x, h)
    total = normed(given, w, "norm_input") + normed(own, w, "norm_hidden")
    return lstm(total, c, lambda c: normed(c, w, "norm_cell"))


def normed_output_lstm(w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    h, c = lstm(sum(sums(w, x, h)), c)  # type: ignore[arg-type]
    return normed(h, w, "norm"), c


def classic_gru(w: dict[str, Array], x: Array, h: Array) -> Array:
    given, _ = sums(w, x, h)
    u, d = np.split(w["weight_hh"], 3), np.split(w["bias_hh"], 3)
    r, z = (sigmoid(part + h @ u[k].T + d[k]) for k, part in enumerate(np.split(given, 3, axis=1)[:2]))
    n = np.tanh(np.split(given, 3, axis=1)[2] + (r * h) @ u[2].T + d[2])
    return (1 - z) * n + z * h


def layer_norm_gru(w: dict[str, Array], x: Array, h: Array) -> Array:
    given, own = sums(w, x, h)
    a, b = (np.split(part, 3, axis=1) for part in (normed(given, w, "norm_input"), normed(own, w, "norm_hidden")))
    r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
    return (1 - z) * np.tanh(a[2] + r * b[2]) + z * h


@pytest.mark.parametrize(
    ("name", "equations"),
    [
        ("layer-norm lstm", layer_norm_lstm),
        ("normed-output lstm", normed_output_lstm),
        ("classic gru", classic_gru),
        ("layer-norm gru", layer_norm_gru),
    ],
)
def test_cells_that_torch_does_not_have_follow_their_equations(name: str, equations: Callable[..., object]) -> None:
    cell = made(CELLS[name])
    weights = {key: weight.detach().numpy() for key, weight in cell.named_parameters()}
    x, state = some(ROWS, INPUTS, 0), some_state(cell)
    y, new = cell(x, state)
    wanted = equations(weights, x.numpy(), *(leaf.numpy() for leaf in state.values()))
    leaves = wanted if isinstance(wanted, tuple) else (wanted,)
    close(y, leaves[0])
    for leaf, right in zip(new.values(), leaves, strict=True):
        close(leaf, right)


def test_a_residual_adds_a_linear_map_of_the_input_to_what_is_given_out_and_not_to_the_state() -> None:
    cell = made(CELLS["residual lstm"])
    assert isinstance(cell, cells.Residual)
    x, state = some(ROWS, INPUTS, 0), some_state(cell)
    inner, inner_state = cell.cell(x, state)
    y, new = cell(x, state)
    close(y, (inner + x @ cell.get_parameter("shortcut.weight").T).detach())
    assert all(torch.equal(new[name], inner_state[name]) for name in new)


def test_a_highway_mixes_its_cell_and_its_input_by_a_gate() -> None:
    cell = made(CELLS["highway lstm"])
    assert isinstance(cell, cells.Highway)
    x, state = some(ROWS, INPUTS, 0), some_state(cell)
    inner, _ = cell.cell(x, state)
    t = torch.sigmoid(x @ cell.gate.weight.T + cell.gate.bias)
    close(cell(x, state)[0], (t * inner + (1 - t) * x).detach())


def test_a_highway_begins_by_carrying_its_input_through() -> None:
    cell = cells.Highway(cells.Lstm(INPUTS, INPUTS))
    assert torch.equal(cell.gate.bias, torch.full((INPUTS,), -1.0))


@pytest.mark.parametrize("around", [cells.Highway, lambda cell: cells.Residual(cell, projected=False)])
def test_a_connection_without_a_projection_needs_equal_widths(around: Callable[[Cell], Cell]) -> None:
    with pytest.raises(ValueError, match=f"{INPUTS} inputs"):
        around(cells.Lstm(INPUTS, HIDDEN))


@EVERY_CELL
def test_the_state_that_was_given_stays_as_it_was(make: Callable[[], Cell]) -> None:
    cell = made(make)
    state = some_state(cell)
    before = {name: leaf.clone() for name, leaf in state.items()}
    _, new = cell(some(ROWS, INPUTS, 0), state)
    assert new.keys() == state.keys() == cell.leaves.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


@EVERY_CELL
def test_a_row_does_not_feel_its_neighbours(make: Callable[[], Cell]) -> None:
    cell = made(make)
    x, state = some(ROWS, INPUTS, 0), some_state(cell)
    together, new = cell(x, state)
    alone, new_alone = cell(x[1:2], {name: leaf[1:2] for name, leaf in state.items()})
    close(alone, together[1:2].detach())
    for name, leaf in new_alone.items():
        close(leaf, new[name][1:2].detach())


@EVERY_CELL
def test_gradients_are_those_of_finite_differences(make: Callable[[], Cell]) -> None:
    cell = made(make)
    names = list(cell.leaves)

    def step(x: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        y, new = cell(x, dict(zip(names, leaves, strict=True)))
        return y, *new.values()

    given = some(ROWS, INPUTS, 0), *some_state(cell).values()
    assert torch.autograd.gradcheck(step, tuple(one.requires_grad_() for one in given))


@EVERY_CELL
def test_a_fresh_state_is_zeros_of_the_widths_that_the_cell_names(make: Callable[[], Cell]) -> None:
    cell = made(make)
    shapes = {name: (2, width) for name, width in cell.leaves.items()}
    assert {name: tuple(leaf.shape) for name, leaf in cell.init_state(2).items()} == shapes
    assert not any(leaf.any() for leaf in cell.init_state(2).values())
