"""Back-propagation through time by hand gives what autograd gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.backprop import Squash, Weights, gradients, run

STEPS, ROWS, INPUTS, HIDDEN, OUTPUTS = 7, 3, 4, 5, 2
SQUASHES = pytest.mark.parametrize("squash", ["identity", "sigmoid", "softmax"])


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def example() -> tuple[Weights, Tensor, Tensor, Tensor]:
    """Weights, an input, a state before it, and what the outputs are weighted with in the loss."""
    torch.manual_seed(0)
    shapes = (HIDDEN, INPUTS), (HIDDEN, HIDDEN), (HIDDEN,), (OUTPUTS, HIDDEN), (OUTPUTS,)
    weights = Weights(*(some(*shape) for shape in shapes))
    return weights, some(STEPS, ROWS, INPUTS), some(ROWS, HIDDEN), some(STEPS, ROWS, OUTPUTS)


def equal(mine: Weights, theirs: tuple[Tensor, ...]) -> None:
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@SQUASHES
def test_the_gradients_by_all_weights_and_by_the_first_state_are_autograds(squash: Squash) -> None:
    weights, x, before, by_output = example()
    mine, by_before = gradients(weights, x, before, run(weights, x, before, squash), by_output, squash)
    leaves = [one.clone().requires_grad_() for one in (*weights, before)]
    ran = run(Weights(*leaves[:5]), x, leaves[5], squash)
    *theirs, theirs_before = torch.autograd.grad((ran.o * by_output).sum(), leaves)
    equal(mine, tuple(theirs))
    torch.testing.assert_close(by_before, theirs_before, rtol=0, atol=1e-12)


@SQUASHES
@pytest.mark.parametrize("steps_back", [0, 1, 3])
def test_cut_off_it_is_autograd_with_states_detached_so_many_steps_before_each_output(
    squash: Squash, steps_back: int
) -> None:
    weights, x, before, by_output = example()
    ran = run(weights, x, before, squash)
    mine, _ = gradients(weights, x, before, ran, by_output, squash, steps_back)
    leaves = [one.clone().requires_grad_() for one in weights]
    loss = torch.zeros((), dtype=torch.float64)
    for last in range(STEPS):
        first = max(0, last - steps_back)
        state = ran.s[first - 1] if first else before
        part = run(Weights(*leaves), x[first : last + 1], state, squash)
        loss = loss + (part.o[-1] * by_output[last]).sum()
    equal(mine, torch.autograd.grad(loss, leaves))


def test_as_many_steps_back_as_there_are_is_the_whole_of_it() -> None:
    weights, x, before, by_output = example()
    ran = run(weights, x, before)
    whole, by_before = gradients(weights, x, before, ran, by_output)
    cut, cut_before = gradients(weights, x, before, ran, by_output, steps_back=STEPS)
    equal(cut, tuple(whole))
    torch.testing.assert_close(cut_before, by_before)
