"""W1 and W6: the engine with its pool beside one batched call of the same network, and live streams at real-time pace.

Throughput is seconds of signal stepped a second of time, which is how many streams could be live if none ever waited.
Imports nothing that a machine with torch alone would not have.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.contract import StreamModel, state_bytes
from streamer.bench.networks import CHUNK_S, W1_STEPS, W6_CHUNK_S, W6_STEPS, FeatureLstm, ProjectedLstm
from streamer.bench.rows import Row, alternating, median_ratio, seconds
from streamer.options import EngineOptions
from streamer.worker.engine import Engine

POOL = 4
"""Slots for every row of a batch; the rows of a step are drawn from them at random."""
W1_REACH = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. batches: tried on both sides, each side keeps its best. live_s: of the live run."""

    batches: Sequence[int]
    rounds: int
    repeats: int
    live_s: float
    device: str = "auto"


QUICK = Size(batches=(128, 256), rounds=2, repeats=2, live_s=3.0)
FULL = Size(batches=(128, 256, 512, 1024), rounds=7, repeats=4, live_s=60.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """Both sides at their best batch size, streams; ratio is the median over rounds."""

    ours: float
    theirs: float
    ratio: float
    our_batch: int
    their_batch: int


class Pool:
    """An engine over `model` with random chunks; `step` advances `batch` streams drawn from all slots."""

    def __init__(self, model: StreamModel, batch: int, device: str = "auto", dtype: str = "bfloat16") -> None:
        lowered = dtype == "bfloat16"
        options = EngineOptions(
            device=device, dtype="bfloat16" if lowered else "float32", max_batch=batch, slots=POOL * batch
        )
        self.engine = Engine(model, options)
        self.batch = batch
        self._draw = np.random.default_rng(0)
        signature = model.signature
        shape = (signature.chunk_samples, signature.channels)
        self._chunks = [self._draw.standard_normal(shape, dtype=np.float32) for _ in range(batch)]

    def step(self) -> None:
        self.advance(self._draw.permutation(POOL * self.batch)[: self.batch])

    def advance(self, slots: NDArray[np.int64]) -> None:
        """One chunk for each of these slots."""
        self.engine.step(slots, self._chunks[: len(slots)])


def bare_call(rnn: nn.LSTM, batch: int, steps: int, device: torch.device) -> Callable[[], None]:
    """The rival: one call of the plain module in bf16, its state never leaving its place."""
    x = torch.randn(batch, steps, rnn.input_size, device=device).bfloat16()
    hidden = rnn.proj_size or rnn.hidden_size
    h, c = (torch.zeros(rnn.num_layers, batch, n, device=device).bfloat16() for n in (hidden, rnn.hidden_size))
    state: list[Tensor] = [h, c]

    def call() -> None:
        with torch.inference_mode():
            _, (state[0], state[1]) = rnn(x, (state[0], state[1]))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def compare(
    make: Callable[[], StreamModel], rnn: nn.LSTM, steps: int, chunk_s: float, size: Size
) -> tuple[Measured, Pool]:
    """Every batch size of both sides in turn, round by round."""
    pools = {batch: Pool(make(), batch, size.device) for batch in size.batches}
    device = pools[size.batches[0]].engine.device
    rnn = rnn.to(device).bfloat16().eval()
    works: dict[str, tuple[int, Callable[[], None]]] = {}
    for batch, pool in pools.items():
        works[f"theirs {batch}"] = (batch, bare_call(rnn, batch, steps, device))
        works[f"ours {batch}"] = (batch, pool.step)
    for _, work in works.values():
        work()

    def streams(batch: int, work: Callable[[], None]) -> float:
        return batch * chunk_s / min(seconds(work) for _ in range(size.repeats))

    sides = {name: (lambda b=batch, w=work: streams(b, w)) for name, (batch, work) in works.items()}
    taken = alternating(sides, size.rounds)
    best = {
        side: max(size.batches, key=lambda batch: statistics.median(taken[f"{side} {batch}"]))
        for side in ("ours", "theirs")
    }
    ours, theirs = (taken[f"{side} {best[side]}"] for side in ("ours", "theirs"))
    ratio = median_ratio(ours, theirs)
    found = Measured(statistics.median(ours), statistics.median(theirs), ratio, best["ours"], best["theirs"])
    return found, pools[best["ours"]]


def live_streams(pool: Pool, start: float, chunk_s: float, live_s: float) -> tuple[int, float]:
    """The most streams held at real-time pace with p99 under two chunks, stepping down from `start`; and that p99, s.

    Short runs find the level, one of `live_s` confirms it. 0 when not even a tenth is held.
    """
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        count = max(1, int(share * start))
        if _p99(pool, count, chunk_s, min(2.0, live_s)) < 2 * chunk_s:
            p99_s = _p99(pool, count, chunk_s, live_s)
            if p99_s < 2 * chunk_s:
                return count, p99_s
    return 0, float("nan")


def _p99(pool: Pool, count: int, chunk_s: float, live_s: float) -> float:
    """Time from a chunk's arrival to its step's end, 99th percentile; arrivals are staggered over the chunk."""
    due = np.arange(count) * (chunk_s / count)
    slots = np.random.default_rng(1).permutation(max(count, POOL * pool.batch)) % (POOL * pool.batch)
    late: list[NDArray[np.floating[Any]]] = []
    begin = time.perf_counter()
    position = 0
    while (now := time.perf_counter() - begin) < live_s:
        ready = min(pool.batch, count)
        order = (position + np.arange(ready)) % count
        order = order[due[order] <= now]
        if not len(order):
            time.sleep(max(0.0, float(due[position]) - now))
            continue
        pool.advance(np.unique(slots[order]))
        done = time.perf_counter() - begin
        late.append(done - due[order])
        if float(late[-1].max()) > 10 * chunk_s:
            return float("inf")  # hopelessly behind: the rest of the run would only wait
        due[order] += chunk_s
        position = int(order[-1] + 1) % count
    return float(np.quantile(np.concatenate(late), 0.99))


def w1(size: Size) -> list[Row]:
    """Throughput of the engine beside one batched bf16 nn.LSTM call; live streams."""
    found, pool = compare(FeatureLstm, FeatureLstm().recurrent.rnn, W1_STEPS, CHUNK_S, size)  # type: ignore[arg-type]
    return _rows("W1 engine", found, pool, CHUNK_S, size, W1_REACH)


def w6(size: Size, layers: int = 12) -> list[Row]:
    """The same for 12 x LSTM 1024 projected to 512."""
    found, pool = compare(
        lambda: ProjectedLstm(layers=layers), ProjectedLstm(layers=layers).rnn, W6_STEPS, W6_CHUNK_S, size
    )
    return _rows("W6 large LSTM" if layers == 12 else f"W6 large LSTM, {layers} layers", found, pool, W6_CHUNK_S, size)


def _rows(name: str, found: Measured, pool: Pool, chunk_s: float, size: Size, reach: float | None = None) -> list[Row]:
    where = str(pool.engine.device)
    count, p99_s = live_streams(pool, 1.1 * found.ours, chunk_s, size.live_s)
    per_stream = pool.engine.pool.nbytes / (pool.engine.pool.capacity + 1)
    return [
        Row(
            f"{name}: throughput",
            found.ours,
            "streams",
            "one batched bf16 nn.LSTM call",
            found.ours / found.ratio,
            reach,
            note=f"{where}; batch {found.our_batch} of a pool of {POOL} times that, random slots, "
            f"gather, check and scatter included; rival at batch {found.their_batch}",
        ),
        Row(
            f"{name}: live streams",
            float(count),
            "streams",
            note=f"{where}; {size.live_s:g} s at real-time pace, staggered arrivals, p99 {1000 * p99_s:.0f} ms "
            f"of at most {2000 * chunk_s:.0f} ms",
        ),
        Row(
            f"{name}: memory per stream",
            per_stream,
            "bytes",
            "its state",
            float(state_bytes(pool.engine.model)),
            1.5,
            "lower",
            note=f"{where}; of the preallocated pool",
        ),
    ]
