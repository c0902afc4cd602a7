"""The networks of W1 and W6, with random weights: what a step costs does not depend on their values.

Shape legend: B rows, T steps of the longest row, I features, L layers, H hidden units, P projected units.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.contract import Outputs, Signature, State
from models.recurrent import RecurrentStack

CHUNK_S = 0.1
W1_FEATURES, W1_HIDDEN, W1_LAYERS, W1_STEPS = 240, 512, 3, 3
W6_FEATURES, W6_HIDDEN, W6_PROJECTED, W6_LAYERS, W6_STEPS = 512, 1024, 512, 12, 4
W6_CHUNK_S = 0.16


def signature_of(features: int, steps: int) -> Signature:
    """A network over feature vectors, one output frame each."""
    return Signature("events", 0, features, steps, 1, 0, ("y",))


class FeatureLstm(nn.Module):
    """W1: LSTM 240 -> 3 x 512 over feature vectors, 3 a chunk of 100 ms. State 12 KiB."""

    def __init__(self, hidden: int = W1_HIDDEN, layers: int = W1_LAYERS, steps: int = W1_STEPS) -> None:
        super().__init__()
        self.recurrent = RecurrentStack(W1_FEATURES, hidden, layers)
        self.signature = signature_of(W1_FEATURES, steps)
        self.eval().requires_grad_(False)

    def init_state(self, batch: int) -> State:
        return self.recurrent.init_state(batch)

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """x: (B, T, I); gives the top layer's output y (B, T, H)."""
        y, new = self.recurrent(x, lengths, state)
        return {"y": y, "lengths": lengths}, new


class ProjectedLstm(nn.Module):
    """W6: the recurrent part of icefall's streaming LSTM, 12 x 1024 projected to 512, 25 steps a second.

    Leaves h (B, L, P) and c (B, L, H), float32: 72 KiB a stream. Every frame steps all rows; rows past their end keep
    their state. Source: icefall, lstm_transducer_stateless3.
    """

    def __init__(self, hidden: int = W6_HIDDEN, projected: int = W6_PROJECTED, layers: int = W6_LAYERS) -> None:
        super().__init__()
        self.rnn = nn.LSTM(W6_FEATURES, hidden, layers, batch_first=True, proj_size=projected)
        self.shapes = {"h": (layers, projected), "c": (layers, hidden)}
        self.signature = signature_of(W6_FEATURES, W6_STEPS)
        self.eval().requires_grad_(False)

    def init_state(self, batch: int) -> State:
        return {name: torch.zeros(batch, *shape) for name, shape in self.shapes.items()}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """x: (B, T, I); gives the top layer's output y (B, T, P)."""
        x = x.to(cast(Tensor, self.rnn.weight_ih_l0).dtype)
        h, c = (state[name].transpose(0, 1).to(x.dtype).contiguous() for name in ("h", "c"))  # (L, B, ...)
        frames: list[Tensor] = []
        for t in range(x.shape[1]):
            live = (lengths > t)[None, :, None]
            out, (new_h, new_c) = self.rnn(x[:, t : t + 1], (h, c))
            h, c = torch.where(live, new_h, h), torch.where(live, new_c, c)
            frames.append(torch.where(live[0, :, :, None], out, 0.0))
        new = {"h": h.transpose(0, 1).float(), "c": c.transpose(0, 1).float()}
        return {"y": torch.cat(frames, dim=1), "lengths": lengths}, new
