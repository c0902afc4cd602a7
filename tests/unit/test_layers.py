"""Deep stacks of cells: chunked equals whole, no company effects, no state over padding, dropout while training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import cells
from models.contract import State
from models.layers import Stack

INPUTS, HIDDEN = 5, 6


def stack() -> Stack:
    """One of every kind of state, and an input normalisation that has seen something."""
    torch.manual_seed(0)
    layers = [
        cells.LayerNormLstm(INPUTS, HIDDEN),
        cells.Highway(cells.Gru(HIDDEN, HIDDEN, "classic")),
        cells.Residual(cells.Lstm(HIDDEN, HIDDEN, projection=3)),
        cells.Vanilla(3, 4),
    ]
    model = Stack(layers, norm_input=True).double()
    model(frames(4, 9, seed=5), torch.tensor([9, 7, 2, 9]), model.init_state(4))
    return model.eval()


def frames(rows: int, count: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, count, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_any_chunking_equals_the_whole_signal(sizes: list[int]) -> None:
    model = stack()
    x = frames(2, sum(sizes))
    whole, end = model(x, torch.full((2,), x.shape[1]), model.init_state(2))
    state, parts = model.init_state(2), []
    for part in x.split(sizes, dim=1):
        out, state = model(part, torch.full((2,), part.shape[1]), state)
        parts.append(out)
    close({"out": torch.cat(parts, dim=1), **state}, {"out": whole, **end})


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_every_ragged_row_equals_that_row_alone_whatever_stands_in_the_padding(lengths: list[int]) -> None:
    model = stack()
    x = frames(len(lengths), 5)
    for row, length in enumerate(lengths):
        x[row, length:] = torch.nan
    out, new = model(x, torch.tensor(lengths), model.init_state(len(lengths)))
    for row, length in enumerate(lengths):
        alone, end = model(x[row : row + 1, :length], torch.tensor([length]), model.init_state(1))
        close({"out": out[row : row + 1, :length]}, {"out": alone})
        close({name: leaf[row : row + 1] for name, leaf in new.items()}, end)
        assert not out[row, length:].any()


def test_a_row_without_frames_keeps_its_state_bit_for_bit() -> None:
    model = stack()
    _, state = model(frames(2, 3), torch.tensor([3, 3]), model.init_state(2))
    _, after = model(frames(2, 3, seed=1), torch.tensor([0, 3]), state)
    for name in state:
        assert torch.equal(after[name][0], state[name][0])
        assert not torch.equal(after[name][1], state[name][1])


def test_the_input_is_normalised_by_the_frames_that_are_no_padding() -> None:
    model = Stack([cells.Vanilla(INPUTS, 4)], norm_input=True).double()
    alone = nn.BatchNorm1d(INPUTS).double()
    x = frames(2, 4)
    alone(torch.cat([x[0], x[1, :1]]))
    model(x, torch.tensor([4, 1]), model.init_state(2))
    assert model.norm_input is not None
    assert model.norm_input.running_mean is not None
    assert alone.running_mean is not None
    torch.testing.assert_close(model.norm_input.running_mean, alone.running_mean)


class Given(cells.Cell):
    """A cell that gives out what it was given."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, width)
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return x, state


def dropped(*, variational: bool) -> Tensor:
    """Where values were dropped, (B, F, I)."""
    torch.manual_seed(0)
    model = Stack([Given(32), Given(32)], dropout=0.5, variational=variational)
    out, _ = model(torch.ones(3, 8, 32), torch.full((3,), 8), model.init_state(3))
    return torch.as_tensor(out == 0)


def test_dropout_is_drawn_for_each_frame_anew() -> None:
    where = dropped(variational=False)
    assert 0.3 < where.double().mean() < 0.7
    assert not torch.equal(where[:, 0], where[:, 1])


def test_variational_dropout_is_drawn_once_for_all_frames_of_a_row() -> None:
    where = dropped(variational=True)
    assert 0.3 < where.double().mean() < 0.7
    assert torch.equal(where, where[:, :1].expand_as(where))
    assert not torch.equal(where[0], where[1])


@pytest.mark.parametrize("variational", [False, True])
def test_nothing_is_dropped_in_use(variational: bool) -> None:
    model = Stack([Given(4), Given(4)], dropout=0.5, variational=variational).eval()
    x = torch.randn(2, 3, 4)
    assert torch.equal(model(x, torch.tensor([3, 3]), model.init_state(2))[0], x)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="gives 6 values, the one above it takes 5"):
        Stack([cells.Gru(INPUTS, HIDDEN), cells.Gru(INPUTS, HIDDEN)])
