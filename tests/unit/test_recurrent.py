"""Recurrent stacks over ragged rows: chunked equals whole, no company effects, no state over padding."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.contract import State
from models.packed import PackedLstm
from models.recurrent import Cell, RecurrentStack

Mode = Literal["segments", "masked", "packed"]
MODES = pytest.mark.parametrize("mode", ["segments", "masked", "packed"])
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])


class Stack(RecurrentStack):
    """With gradients `nn.LSTM` is called, without them an LSTM goes frame by frame through packed weights."""

    def __init__(self, cell: Cell, mode: Mode) -> None:
        super().__init__(5, 7, 2, cell, ragged="segments" if mode == "packed" else mode)
        self.mode = mode

    def forward(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        with torch.set_grad_enabled(self.mode != "packed"):
            if isinstance(self.rnn, nn.LSTM):
                assert PackedLstm.fits(self.rnn) == (self.mode == "packed")
            return super().forward(x, lengths, state)


def stack(cell: Cell = "lstm", mode: Mode = "segments") -> Stack:
    torch.manual_seed(0)
    model = Stack(cell, mode)
    model.eval().requires_grad_(False)
    return model


def frames(rows: int, count: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, count, 5, generator=torch.Generator().manual_seed(seed))


def alone(model: RecurrentStack, x: Tensor) -> tuple[Tensor, State]:
    """One row (F, I) as plain torch computes it, offline."""
    out, last = model.rnn(x[None])
    leaves = last if isinstance(model.rnn, nn.LSTM) else (last,)
    return out[0], {name: leaf[:, 0] for name, leaf in zip(model.leaves, leaves, strict=True)}


@MODES
@CELLS
@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_every_ragged_row_equals_plain_torch_on_that_row_alone(mode: Mode, cell: Cell, lengths: list[int]) -> None:
    model = stack(cell, mode)
    x = frames(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        x[row, length:] = 1e6 if mode == "masked" else float("nan")
    out, state = model(x, torch.tensor(lengths), model.init_state(len(lengths)))
    for row, length in enumerate(lengths):
        assert torch.equal(out[row, length:], torch.zeros_like(out[row, length:]))
        if length:
            expected, expected_state = alone(model, x[row, :length])
            torch.testing.assert_close(out[row, :length], expected, atol=1e-5, rtol=0)
            for name, leaf in expected_state.items():
                torch.testing.assert_close(state[name][row], leaf, atol=1e-5, rtol=0)


@MODES
@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_any_chunking_equals_the_whole_signal(mode: Mode, sizes: list[int]) -> None:
    model = stack("lstm", mode)
    x = frames(1, max(1, sum(sizes)))[:, : sum(sizes)]
    state, parts, start = model.init_state(1), [], 0
    for size in sizes:
        part, state = model(x[:, start : start + size], torch.tensor([size]), state)
        parts.append(part)
        start += size
    if start:
        expected, expected_state = alone(model, x[0])
        torch.testing.assert_close(torch.cat(parts, dim=1)[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(state["c"][0], expected_state["c"], atol=1e-5, rtol=0)


@MODES
@CELLS
def test_a_row_without_frames_keeps_its_state_bit_for_bit(mode: Mode, cell: Cell) -> None:
    model = stack(cell, mode)
    _, before = model(frames(3, 4), torch.tensor([4, 4, 4]), model.init_state(3))
    _, after = model(frames(3, 4, seed=1), torch.tensor([4, 0, 2]), before)
    assert all(torch.equal(after[name][1], before[name][1]) for name in model.leaves)
    assert not torch.equal(after["h"][0], before["h"][0])
    assert not torch.equal(after["h"][2], before["h"][2])


@MODES
@pytest.mark.parametrize("lengths", [[3, 3], [3, 1]])
def test_a_step_leaves_the_given_state_as_it_was(mode: Mode, lengths: list[int]) -> None:
    model = stack("lstm", mode)
    state = model.init_state(2)
    model(frames(2, 3), torch.tensor(lengths), state)
    assert all(torch.equal(leaf, torch.zeros_like(leaf)) for leaf in state.values())


@MODES
def test_in_bfloat16_the_state_leaves_stay_float32_and_the_output_stays_near(mode: Mode) -> None:
    exact, rough = stack(), stack("lstm", mode).to(torch.bfloat16)
    x, lengths = frames(2, 6), torch.tensor([6, 4])
    out, state = rough(x, lengths, rough.init_state(2))
    expected, _ = exact(x, lengths, exact.init_state(2))
    assert out.dtype == torch.bfloat16
    assert {leaf.dtype for leaf in state.values()} == {torch.float32}
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0)


def test_weights_that_change_are_packed_anew() -> None:
    model, other = stack("lstm", "packed"), stack("lstm", "packed")
    x, lengths = frames(2, 3), torch.tensor([3, 2])
    first, _ = model(x, lengths, model.init_state(2))
    for weight in other.parameters():
        weight.mul_(0.5)
    model.load_state_dict(other.state_dict())
    second, _ = model(x, lengths, model.init_state(2))
    expected, _ = other(x, lengths, other.init_state(2))
    assert torch.equal(second, expected)
    assert not torch.equal(second, first)


def test_weights_that_went_to_bfloat16_and_back_are_packed_anew() -> None:
    """They may lie again where they lay before, rounded."""
    model = stack("lstm", "packed")
    x, lengths = frames(2, 3), torch.tensor([3, 2])
    model(x, lengths, model.init_state(2))
    model.to(torch.bfloat16).to(torch.float32)
    rounded, _ = model(x, lengths, model.init_state(2))
    fresh, _ = copy.deepcopy(model)(x, lengths, model.init_state(2))
    assert torch.equal(rounded, fresh)


def test_packed_weights_give_the_same_bits_at_the_first_call_and_when_torch_has_compiled_it() -> None:
    model = stack(mode="packed")
    x, lengths = frames(3, 4), torch.tensor([4, 2, 3])
    first, state = model(x, lengths, model.init_state(3))
    for _ in range(20):
        again, state_again = model(x, lengths, model.init_state(3))
        assert torch.equal(first, again)
        assert all(torch.equal(state[name], state_again[name]) for name in state)


def test_a_copy_packs_its_own_weights() -> None:
    model = stack("lstm", "packed")
    x, lengths = frames(2, 3), torch.tensor([3, 2])
    before, _ = model(x, lengths, model.init_state(2))
    changed = copy.deepcopy(model)
    for weight in changed.parameters():
        weight.zero_()
    silent, _ = changed(x, lengths, changed.init_state(2))
    assert torch.equal(silent, torch.zeros_like(silent))
    assert torch.equal(model(x, lengths, model.init_state(2))[0], before)


def test_leaves_are_batch_first_and_flat() -> None:
    assert {name: tuple(leaf.shape) for name, leaf in stack().init_state(3).items()} == {"h": (3, 2, 7), "c": (3, 2, 7)}
    assert {name: tuple(leaf.shape) for name, leaf in stack("gru").init_state(3).items()} == {"h": (3, 2, 7)}
