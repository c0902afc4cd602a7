"""Tiny models that are quick and easy to reason about, for tests and examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.contract import Outputs, Signature, State


class RunningSum:
    """Adds up what it is given: output `y` is the sum of the stream so far. Its state is exact for small integers."""

    def __init__(self, channels: int = 1) -> None:
        self.signature = Signature(
            input="events",
            rate_hz=0,
            channels=channels,
            chunk_samples=1,
            samples_per_frame=1,
            latency_samples=0,
            outputs=("y",),
        )

    def init_state(self, batch: int) -> State:
        return {"sum": torch.zeros(batch, 1)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        added = torch.where(valid[:, :, None], x, 0.0).sum(2, keepdim=True)
        y = state["sum"][:, None] + added.cumsum(1)  # (B, T, 1)
        return {"y": y, "lengths": lengths}, {"sum": state["sum"] + added.sum(1)}


class TinyGru(nn.Module):
    """A GRU over events with `channels` columns and one linear output `y`; weights from `seed`."""

    def __init__(self, channels: int = 10, hidden: int = 64, layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.channels, self.hidden, self.layers = channels, hidden, layers
        generator = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.gru = nn.GRU(channels, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, 1)
        torch.random.set_rng_state(generator)
        self.eval().requires_grad_(False)

    @property
    def signature(self) -> Signature:
        return Signature(
            input="events",
            rate_hz=0,
            channels=self.channels,
            chunk_samples=1,
            samples_per_frame=1,
            latency_samples=0,
            outputs=("y",),
        )

    def init_state(self, batch: int) -> State:
        return {"h": torch.zeros(batch, self.layers, self.hidden)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """x: (B, T, C). Rows of different lengths take their last steps in smaller company."""
        if x.shape[1] and int(lengths.amin()) == x.shape[1]:
            seen, last = self.gru(x, state["h"].transpose(0, 1).contiguous())
            return {"y": self.out(seen), "lengths": lengths}, {"h": last.transpose(0, 1)}
        h = state["h"].clone()  # (B, L, H)
        y = x.new_zeros(x.shape[0], x.shape[1], 1)
        done = 0
        for end in lengths.unique().tolist():
            if end > done:
                rows = (lengths >= end).nonzero()[:, 0]
                seen, last = self.gru(x[rows, done:end], h[rows].transpose(0, 1).contiguous())
                y[rows, done:end] = self.out(seen)
                h[rows] = last.transpose(0, 1)
                done = end
        return {"y": y, "lengths": lengths}, {"h": h}
