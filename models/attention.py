"""Attention over the past of a live stream, with a state that does not grow.

A frame attends to itself and to the `span` frames before it, whose keys and values are the state. Scores are scaled
products (A. Vaswani et al., Attention Is All You Need, 2017), local as in M.-T. Luong et al., Effective Approaches to
Attention-based Neural Machine Translation, 2015; with a `stride` every s-th frame alone is kept, so that the same
memory looks s times as far back (R. Child et al., Generating Long Sequences with Sparse Transformers, 2019).

Shape legend: B rows, F frames of the longest row, H width of a frame, S span, D width of keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.contract import State, merge_rows


class PastAttention(nn.Module):
    """y = x + O sum of a_i v_i over the present frame and the kept ones before it.

    width: H; span: S, frames that are kept; stride: of the stream's frames every so many is kept.
    """

    def __init__(self, width: int, span: int, keys: int = 64, stride: int = 1) -> None:
        super().__init__()
        if span < 1 or stride < 1:
            raise ValueError(f"span and stride are at least 1: {span}, {stride}")
        self.span, self.stride, self.keys = span, stride, keys
        self.query = nn.Linear(width, keys)
        self.key = nn.Linear(width, keys)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def init_state(self, batch: int) -> State:
        """Leaves: kept_keys (B, S, D), kept_values (B, S, H), kept (B,) and seen (B,) int64: how many of each."""
        like = self.query.weight
        none = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return {
            "kept_keys": like.new_zeros(batch, self.span, self.keys),
            "kept_values": like.new_zeros(batch, self.span, self.value.out_features),
            "kept": none,
            "seen": none.clone(),
        }

    def forward(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance every row by its own frames: x (B, F, H), lengths (B,). Returns (B, F, H), zeros in the padding."""
        live = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        x = torch.where(live[..., None], x, 0.0)
        query, key, value = self.query(x), self.key(x), self.value(x)
        steps: list[Tensor] = []
        for frame in range(x.shape[1]):
            here = live[:, frame]
            looked = self._look(query[:, frame], key[:, frame], value[:, frame], state)
            steps.append(torch.where(here[:, None], x[:, frame] + self.out(looked), 0.0))
            state = merge_rows(state, self._keep(key[:, frame], value[:, frame], state), here)
        return torch.stack(steps, dim=1) if steps else torch.zeros_like(x), state

    def weights(self, query: Tensor, key: Tensor, state: State) -> Tensor:
        """What a frame looks at, (B, S + 1): the kept frames, the oldest first, and itself; they sum to one."""
        keys = torch.cat([state["kept_keys"], key[:, None]], dim=1)
        scores = torch.einsum("bd,bsd->bs", query, keys) / math.sqrt(self.keys)
        place = torch.arange(self.span + 1, device=query.device)
        there = place >= self.span - state["kept"][:, None]  # filled from the end
        return scores.masked_fill(~there, -math.inf).softmax(-1)

    def _look(self, query: Tensor, key: Tensor, value: Tensor, state: State) -> Tensor:
        values = torch.cat([state["kept_values"], value[:, None]], dim=1)
        return torch.einsum("bs,bsh->bh", self.weights(query, key, state), values)

    def _keep(self, key: Tensor, value: Tensor, state: State) -> State:
        """The state behind a frame, which is kept if it is its turn."""
        shifted: State = {
            "kept_keys": torch.cat([state["kept_keys"][:, 1:], key[:, None]], dim=1),
            "kept_values": torch.cat([state["kept_values"][:, 1:], value[:, None]], dim=1),
            "kept": (state["kept"] + 1).clamp(max=self.span),
        }
        kept = {name: state[name] for name in shifted}
        turn = state["seen"] % self.stride == 0
        return {**merge_rows(kept, shifted, turn), "seen": state["seen"] + 1}
