"""Back-propagation through time written out by hand, for the vanilla recurrent network.

    s_t = tanh(U x_t + W s_(t-1) + b)        o_t = g(V s_t + d),  g identity, sigmoid or softmax

P. Werbos, Backpropagation Through Time: What It Does and How to Do It, 1990; cut off after some steps as in
R. Williams and J. Peng, An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories, 1990. autograd does the same for every network here; this is to be read, and checked against it.

Shape legend: T steps, B rows, I inputs, H hidden units, O outputs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Squash = Literal["identity", "sigmoid", "softmax"]


class Weights(NamedTuple):
    """U (H, I), W (H, H), b (H,), V (O, H), d (O,); or the gradients by them."""

    U: Tensor
    W: Tensor
    b: Tensor
    V: Tensor
    d: Tensor


class Run(NamedTuple):
    """What a sequence gave: s (T, B, H), o (T, B, O)."""

    s: Tensor
    o: Tensor


def run(weights: Weights, x: Tensor, before: Tensor, squash: Squash = "softmax") -> Run:
    """All steps. x: (T, B, I); before: (B, H), the state before the first step."""
    states, outputs = [], []
    s = before
    for x_t in x:
        s = torch.tanh(x_t @ weights.U.T + s @ weights.W.T + weights.b)
        states.append(s)
        outputs.append(_squashed(s @ weights.V.T + weights.d, squash))
    return Run(torch.stack(states), torch.stack(outputs))


def gradients(
    weights: Weights,
    x: Tensor,
    before: Tensor,
    ran: Run,
    by_output: Tensor,
    squash: Squash = "softmax",
    steps_back: int | None = None,
) -> tuple[Weights, Tensor]:
    """The gradients of a loss by the weights and by the state before the first step (B, H).

    by_output: (T, B, O), the loss's gradient by each o_t. steps_back: an output's error is followed through so many
    steps before its own at most; None for all of them.
    """
    found = Weights(*(torch.zeros_like(weight) for weight in weights))
    by_sum = torch.stack([_through(o, grad, squash) for o, grad in zip(ran.o, by_output, strict=True)])
    found.V.add_(torch.einsum("tbo,tbh->oh", by_sum, ran.s))
    found.d.add_(by_sum.sum((0, 1)))
    by_before = torch.zeros_like(before)
    if steps_back is None:
        _follow(weights, found, by_before, x, before, ran.s, by_sum @ weights.V, len(x))
        return found, by_before
    for last in range(len(x)):
        alone = torch.zeros_like(ran.s)
        alone[last] = by_sum[last] @ weights.V
        _follow(weights, found, by_before, x, before, ran.s, alone, steps_back, last)
    return found, by_before


def _follow(
    weights: Weights,
    into: Weights,
    by_before: Tensor,
    x: Tensor,
    before: Tensor,
    s: Tensor,
    by_state: Tensor,
    steps_back: int,
    last: int | None = None,
) -> None:
    """Errors at states, (T, B, H), from the `last` step back through time; added to `into` and `by_before`."""
    last = len(x) - 1 if last is None else last
    error = torch.zeros_like(before)
    for t in range(last, max(-1, last - steps_back - 1), -1):
        error = (error + by_state[t]) * (1 - s[t] ** 2)  # through tanh
        came_from = s[t - 1] if t else before
        into.U.add_(error.T @ x[t])
        into.W.add_(error.T @ came_from)
        into.b.add_(error.sum(0))
        error = error @ weights.W
        if t == 0:
            by_before.add_(error)


def _squashed(total: Tensor, squash: Squash) -> Tensor:
    if squash == "identity":
        return total
    return torch.sigmoid(total) if squash == "sigmoid" else torch.softmax(total, -1)


def _through(o: Tensor, grad: Tensor, squash: Squash) -> Tensor:
    """A gradient by g's output, as one by its input."""
    if squash == "identity":
        return grad
    if squash == "sigmoid":
        return grad * o * (1 - o)
    return o * (grad - (grad * o).sum(-1, keepdim=True))
