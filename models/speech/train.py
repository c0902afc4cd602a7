"""Train the speech recognizer: `python -m models.speech.train --out DIR --minutes N --seed S`.

Prepares the features on the first call, writes `checkpoint.safetensors` and `progress.json` as it goes and continues
from them after a kill. The learning rate follows the training time that was really spent, so a slow machine gets the
whole schedule too. Half of the rows begin in the state that the same row of the last batch ended in: a live stream
does not begin anew with every sentence.

Each worker is a process with one thread and its own batch; gradients are averaged once a step. Threads inside a
step would meet at every frame of every layer, which on a busy machine costs up to sixteen times the work itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from models.contract import State
from models.speech.batches import Batch, Batches, statistics
from models.speech.features import make_store, open_store
from models.speech.model import CtcLstm


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run besides the data.

    batch_seconds: of each worker; peak_rate: of AdamW;
    warm_up: share of the schedule."""

    minutes: float = 65.0
    seed: int = 1
    readings: int = 14_000
    workers: int = 2
    batch_seconds: float = 36.0
    peak_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: float = 0.02
    dropout: float = 0.1
    clip_norm: float = 2.0


@dataclass(slots=True)
class Progress:
    """What a run has done so far."""

    step: int = 0
    spent_s: float = 0.0
    audio_s: float = 0.0


class Trainer:
    """One worker's part of a run in one folder; worker 0 writes the log and the checkpoints."""

    def __init__(self, folder: Path, plan: Plan, rank: int) -> None:
        self.folder, self.plan, self.rank = folder, plan, rank
        torch.manual_seed(plan.seed)  # the same first weights for every worker
        store = open_store(folder / "features")
        mean, std = statistics(store)
        self.batches = Batches(store, mean, std)
        self.model = CtcLstm(dropout=plan.dropout)
        self.model.front_end.mean.copy_(torch.from_numpy(mean))
        self.model.front_end.std.copy_(torch.from_numpy(std))
        self.optimizer = torch.optim.AdamW(
            self.model.body.parameters(),
            lr=plan.peak_rate,
            weight_decay=plan.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.loss = nn.CTCLoss(reduction="none", zero_infinity=True)
        self.progress = Progress()
        self.carried: State = {}
        self._resume()
        torch.manual_seed(plan.seed * 1_000 + rank + 10 * self.progress.step)  # dropout of its own

    def run(self) -> None:
        """Train until the planned minutes are spent; the last act is a checkpoint."""
        budget_s = self.plan.minutes * 60
        self.model.train()
        saved_s = logged_s = began = self.progress.spent_s
        clock = time.monotonic()
        losses: list[float] = []
        with self._ahead() as upcoming:
            for batch in upcoming:
                loss, spent_s = self._step(batch, began + time.monotonic() - clock, budget_s)
                losses.append(loss)
                self.progress.spent_s = spent_s
                self.progress.audio_s += batch.features.shape[0] * batch.features.shape[1] * 0.03 * self.plan.workers
                self.progress.step += 1
                if spent_s - logged_s > 20:
                    self._log(losses)
                    losses, logged_s = [], spent_s
                if spent_s - saved_s > 120:
                    self._save()
                    saved_s = spent_s
                if spent_s >= budget_s:
                    break
        self._save()

    def _step(self, batch: Batch, spent_s: float, budget_s: float) -> tuple[float, float]:
        """Learn one batch; the loss, and the time that worker 0 has spent."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.peak_rate * rate_share(self.progress.spent_s / budget_s, self.plan.warm_up)
        rows, frames, _ = batch.features.shape
        counts = torch.full((rows,), frames)
        state = self._begin(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            log_probs, state = self.model.body(batch.features, counts, state)
        self.carried = {name: leaf.detach() for name, leaf in state.items()}
        losses = self.loss(log_probs.transpose(0, 1), batch.targets, counts, batch.target_lengths)
        loss = losses.sum() / (batch.target_lengths.sum() + rows)  # per label; noise rows count as one
        self.optimizer.zero_grad()
        loss.backward()
        spent_s = self._average(spent_s)
        norm = nn.utils.clip_grad_norm_(self.model.body.parameters(), self.plan.clip_norm)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        return float(loss.detach()), spent_s

    def _average(self, spent_s: float) -> float:
        """Average the workers' gradients in place; worker 0's clock travels along, so that all stop together."""
        gradients = [p.grad for p in self.model.body.parameters() if p.grad is not None]
        clock = torch.tensor([spent_s if self.rank == 0 else 0.0])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), clock])
        distributed.all_reduce(flat)
        position = 0
        for gradient in gradients:
            gradient.copy_(flat[position : position + gradient.numel()].view_as(gradient) / self.plan.workers)
            position += gradient.numel()
        return float(flat[-1])

    def _begin(self, rows: int) -> State:
        """Zeros for half of the rows, the last batch's state for the others."""
        fresh = self.model.body.recurrent.init_state(rows)
        if not self.carried:
            return fresh
        keep = torch.rand(rows) < 0.5
        keep[min(rows, len(self.carried["h"])) :] = False
        for name, leaf in self.carried.items():
            fresh[name][keep] = leaf[: len(keep)][keep[: len(leaf)]]
        return fresh

    @contextmanager
    def _ahead(self) -> Iterator[Iterator[Batch]]:
        """Batches, the next one drawn on another thread while the last is being learnt."""
        with ThreadPoolExecutor(1) as pool:
            yield self._drawn(pool)

    def _drawn(self, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        step = self.progress.step
        waiting = pool.submit(self._draw, step)
        while True:
            batch = waiting.result()
            step += 1
            waiting = pool.submit(self._draw, step)
            yield batch

    def _draw(self, step: int) -> Batch:
        rng = np.random.default_rng((self.plan.seed, self.rank, step))
        # Short streams first: alignments are found on them sooner.
        seconds = 4.5 if step < 400 else float(rng.uniform(4.0, 9.0))
        return self.batches.draw(max(4, round(self.plan.batch_seconds / seconds)), int(seconds / 0.03) * 3, rng)

    def _log(self, losses: list[float]) -> None:
        if self.rank != 0:
            return
        line = {**asdict(self.progress), "loss": float(np.mean(losses)), "rate": self.optimizer.param_groups[0]["lr"]}
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        if self.rank != 0:
            return
        tensors: dict[str, Tensor] = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        moments = self.optimizer.state_dict()["state"]
        for index, values in moments.items():
            tensors |= {f"optimizer.{index}.{n}": t.contiguous() for n, t in values.items()}
        fresh = self.folder / "checkpoint.tmp"
        # The progress travels inside the same file, so that a kill between two files cannot part them.
        save_file(tensors, fresh, metadata={"progress": json.dumps(asdict(self.progress))})
        fresh.replace(self.folder / "checkpoint.safetensors")

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return
        tensors = load_file(path)
        self.model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".")
                moments.setdefault(int(index), {})[field] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.progress = read_progress(path)


def read_progress(checkpoint: Path) -> Progress:
    """How far the run of a checkpoint was."""
    with safe_open(checkpoint, framework="pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def rate_share(done: float, warm_up: float) -> float:
    """Share of the peak learning rate after the share `done` of the schedule: a ramp, then half a cosine."""
    if done < warm_up:
        return 0.05 + 0.95 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up)))) + 0.002


def work(rank: int, folder: Path, plan: Plan, meeting: str) -> None:
    """One worker process: one thread, meeting the others at a file."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=plan.workers)
    Trainer(folder, plan, rank).run()
    distributed.destroy_process_group()


def train(folder: Path, plan: Plan) -> None:
    """Prepare the features and run all workers to the end."""
    make_store(folder / "features", plan.readings, plan.seed)
    with tempfile.TemporaryDirectory() as place:
        spawn(work, (folder, plan, f"{place}/meeting"), nprocs=plan.workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Plan()
    parser.add_argument("--out", type=Path, required=True, help="folder for features, checkpoint and log")
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="training time, features not counted")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--readings", type=int, default=defaults.readings, help="synthesised sentences")
    parser.add_argument("--peak-rate", type=float, default=defaults.peak_rate, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=defaults.workers, help="processes of one thread each")
    given = parser.parse_args()
    plan = Plan(given.minutes, given.seed, given.readings, given.workers, peak_rate=given.peak_rate)
    train(given.out, plan)


if __name__ == "__main__":
    main()
