"""Train the forecaster: `python -m models.sensor.train --out DIR --seed S --minutes N`.

Data: the training half of NAB (see `corpus`), the first twelve months of ETTh1 where present, and signals generated
from the seed. The features need no weights, so they are made once for all signals; the network then learns by
truncated back-propagation through time, its state carried from window to window, by pinball loss in asinh space
(quantiles go through any rising function, and outliers weigh less there).

Shape legend: N signals, B of them in one update, W events of one window, I features, A anchors.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from models.sensor import corpus, normalizer
from models.sensor.model import Forecaster
from models.sensor.network import anchor_offsets, pinball
from models.sensor.signals import generate

BATCH = 128
WINDOW_EVENTS = 128
WINDOWS_PER_EPISODE = 10
GENERATED = 768
SIGNAL_EVENTS = 4096
_ETT_TRAINING_EVENTS = 12 * 30 * 24


@dataclass(frozen=True, slots=True)
class Prepared:
    """Signals as the network sees them. features: (N, T, I); anchors: (N, T, A); target: (N, T) next change in
    units; known: (N, T) bool; lengths: (N,)."""

    features: Tensor
    anchors: Tensor
    target: Tensor
    known: Tensor
    lengths: Tensor


def recorded_signals(data: Path) -> list[NDArray[np.float64]]:
    """Real signals to train on, cut to `SIGNAL_EVENTS`, each also upside down; none where the folder is absent."""
    whole: list[NDArray[np.float64]] = []
    if (data / "nab").is_dir():
        whole += [recording.value for recording in corpus.read_nab(data / "nab") if recording.training]
    if (data / "ett").is_dir():
        whole += [column[:_ETT_TRAINING_EVENTS] for column in corpus.read_ett(data / "ett" / "ETTh1.csv")]
    pieces = [v[i : i + SIGNAL_EVENTS] for v in whole for i in range(0, len(v), SIGNAL_EVENTS)]
    pieces = [piece for piece in pieces if len(piece) > 2 * WINDOW_EVENTS]
    return pieces + [-piece for piece in pieces]


def prepare(signals: list[NDArray[np.float64]]) -> Prepared:
    """Features, anchors and targets of all signals at once."""
    lengths = torch.tensor([len(signal) for signal in signals])
    x = torch.full((len(signals), int(lengths.max())), float("nan"))
    for row, signal in enumerate(signals):
        x[row, : len(signal)] = torch.from_numpy(signal).float()
    state = normalizer.init_state(len(signals), 1, torch.device("cpu"))
    features: list[Tensor] = []
    units: list[Tensor] = []
    last: list[Tensor] = []
    for index in range(x.shape[1]):
        made, state = normalizer.advance(x[:, index : index + 1], index < lengths, state)
        features.append(made[:, 0])
        units.append(normalizer.unit_of(state)[:, 0])
        last.append(state["last"][:, 0])
    stacked = torch.stack(features, dim=1)
    target = (x[:, 1:] - torch.stack(last[:-1], dim=1)) / torch.stack(units[:-1], dim=1)
    started = stacked[:, :-1, 6] > math.log1p(1.5) / 4.0 - 1.0  # two values at least
    known = torch.isfinite(target) & started
    return Prepared(stacked[:, :-1], anchor_offsets(stacked[:, :-1]), target.nan_to_num(), known, lengths - 1)


def episodes(data: Prepared, weights: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: rows (B,) drawn by weight, and the event (B,) each begins at; half begin at a signal's start."""
    span = WINDOW_EVENTS * WINDOWS_PER_EPISODE
    while True:
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        room = (data.lengths[rows] - span).clamp(min=0)
        start = (torch.rand(BATCH, generator=generator) * (room + 1)).long()
        yield rows, torch.where(torch.rand(BATCH, generator=generator) < 0.3, 0, start)


def train(model: Forecaster, data: Prepared, weights: Tensor, minutes: float, seed: int) -> float:
    """Fit the network for `minutes` of wall time; the mean loss of the last episodes."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=3e-3, weight_decay=1e-3)
    begin, budget_s, smooth = time.monotonic(), minutes * 60, math.nan
    for episode, (rows, start) in enumerate(episodes(data, weights, generator)):
        done = (time.monotonic() - begin) / budget_s
        if done >= 1.0:
            return smooth
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (episode + 1) / 5) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        loss = _episode(model, data, rows, start, optimizer)
        smooth = loss if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss
        if episode % 10 == 0:
            print(json.dumps({"episode": episode, "done": round(done, 3), "loss": round(smooth, 5)}), flush=True)
    raise AssertionError("episodes never end")


def _episode(model: Forecaster, data: Prepared, rows: Tensor, start: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Consecutive windows of the same rows, the state carried and cut from the gradient between them."""
    hidden = torch.zeros(BATCH, model.layers, model.hidden)
    total, last = 0.0, data.features.shape[1] - 1
    for window in range(WINDOWS_PER_EPISODE):
        events = start.unsqueeze(1) + torch.arange(WINDOW_EVENTS) + window * WINDOW_EVENTS  # (B, W)
        known = (events < data.lengths[rows].unsqueeze(1)) & data.known[rows.unsqueeze(1), events.clamp(max=last)]
        pick = rows.unsqueeze(1), events.clamp(max=last)
        top, states = model.network(data.features[pick].unsqueeze(2), hidden)
        offsets = model.network.offsets(top, data.anchors[pick])
        each = pinball(data.target[pick].asinh(), offsets.asinh()).mean(-1)  # (B, W)
        loss = (each * known).sum() / known.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimizer.step()
        hidden = states[:, -1].detach()
        total += float(loss.detach())
    return total / WINDOWS_PER_EPISODE


def main() -> None:
    """Train from nothing and write `weights.safetensors`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write weights.safetensors to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0, help="wall time of the training itself")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    recorded = recorded_signals(corpus.data_folder())
    generated = [generate(rng, SIGNAL_EVENTS) for _ in range(GENERATED)]
    data = prepare(recorded + generated)
    share = [0.5 / max(len(recorded), 1)] * len(recorded) + [0.5 / GENERATED] * GENERATED
    model = Forecaster()
    loss = train(model, data, torch.tensor(share), options.minutes, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: leaf.contiguous() for name, leaf in model.state_dict().items()}, options.out / "weights.safetensors"
    )
    print(json.dumps({"loss": loss, "recorded": len(recorded), "generated": GENERATED}))


if __name__ == "__main__":
    main()
