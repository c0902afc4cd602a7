"""The engine: one model on one device, stepping batches of rows out of a slot pool. All of it runs on one thread.

gather to scratch -> step -> check -> predicated scatter. A row that gave NaN or Inf keeps its old state and is
reported; its neighbours go on. Knows no records, streams or time; imports neither aiokafka, pydantic nor msgspec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.contract import Outputs, State, StreamModel
from streamer.options import EngineOptions
from streamer.worker.slots import SlotPool

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave. outputs: (n, F, ...) by name; lengths: (n,) valid frames; failed: row to reason."""

    outputs: dict[str, NDArray[np.generic]]
    lengths: NDArray[np.int64]
    failed: dict[int, str]

    def row(self, index: int) -> dict[str, NDArray[np.generic]]:
        """The valid frames of one row, by output name."""
        return {name: leaf[index, : self.lengths[index]] for name, leaf in self.outputs.items()}


class DeviceLost(Exception):
    """The device cannot be used by this process any more; nothing of the step may be committed."""


class Engine:
    """Steps `model` with its state pool. Not thread-safe: one thread owns it."""

    def __init__(self, model: StreamModel, options: EngineOptions) -> None:
        self.options = options
        self.device = pick_device(options.device)
        if isinstance(model, nn.Module):
            model = cast(StreamModel, model.to(self.device))
        if options.dtype == "bfloat16":
            model = lower_precision(model)
        self.model = model
        self.signature = model.signature
        self.pool = SlotPool(model, max(options.slots, options.max_batch), self.device)
        self._largest = options.max_batch
        self._threads = 1 if options.deterministic and options.threads is None else options.threads

    @property
    def max_batch(self) -> int:
        """Rows of one step; shrinks when the device runs out of memory."""
        return self._largest

    def numerics(self) -> str:
        """What results to the last bit depend on besides input and weights."""
        shape = f"batch={self.options.max_batch}" if self.options.deterministic else "batch=any"
        where = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else torch.backends.cpu.get_cpu_capability()
        )
        return f"torch={torch.__version__} {where} {self.options.dtype} {shape} threads={self._threads}"

    def step(self, slots: NDArray[np.int64], chunks: Sequence[Samples]) -> StepResult:
        """Advance streams by one chunk each.

        slots: (n,) distinct, n <= max_batch; chunks: n arrays of (T_i, C) float32. A row fails when its state or
        outputs are not finite, or when stepping it alone raises; it then keeps its state. Raises DeviceLost.
        """
        with torch.inference_mode(), self._pinned_threads():
            return self._step(slots, chunks)

    @contextmanager
    def _pinned_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self._threads is None or self._threads == before:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _step(self, slots: NDArray[np.int64], chunks: Sequence[Samples]) -> StepResult:
        if len(slots) > self._largest:
            return self._in_parts(slots, chunks, self._largest)
        try:
            return self._step_once(slots, chunks)
        except torch.OutOfMemoryError:
            if len(slots) == 1:
                return self._row_failed("out of memory for this record alone")
            self._largest = max(1, len(slots) // 2)
            return self._in_parts(slots, chunks, self._largest)
        except (RuntimeError, ValueError, IndexError) as error:
            if is_poisoned(error):
                raise DeviceLost(str(error)) from error
            if len(slots) == 1:
                return self._row_failed(f"the model refused it: {error}")
            return self._in_parts(slots, chunks, (len(slots) + 1) // 2)

    def _in_parts(self, slots: NDArray[np.int64], chunks: Sequence[Samples], size: int) -> StepResult:
        cuts = range(0, len(slots), size)
        return _join(
            [self._step(slots[i : i + size], chunks[i : i + size]) for i in cuts],
            [len(slots[i : i + size]) for i in cuts],
        )

    def _row_failed(self, reason: str) -> StepResult:
        return StepResult({}, np.zeros(1, np.int64), {0: reason})

    def _step_once(self, slots: NDArray[np.int64], chunks: Sequence[Samples]) -> StepResult:
        n = len(slots)
        x, lengths, rows = self._stage(slots, chunks)
        outputs, state = self.model.step(x, lengths, self.pool.gather(rows))
        ok = finite_rows(state, outputs)
        self.pool.scatter(rows, state, ok)
        host = {
            name: leaf[:n].float().cpu().numpy() if leaf.is_floating_point() else leaf[:n].cpu().numpy()
            for name, leaf in outputs.items()
        }
        frames = host.pop("lengths").astype(np.int64, copy=False)
        bad = np.flatnonzero(~ok[:n].cpu().numpy())
        return StepResult(
            cast("dict[str, NDArray[np.generic]]", host), frames, {int(i): "the step gave NaN or Inf" for i in bad}
        )

    def _stage(self, slots: NDArray[np.int64], chunks: Sequence[Samples]) -> tuple[Tensor, Tensor, Tensor]:
        """The padded batch: x (B, T, C), lengths (B,), rows (B,); B and T are fixed in deterministic mode."""
        n, channels = len(slots), self.signature.channels
        sizes = np.fromiter((len(c) for c in chunks), np.int64, n)
        batch, longest = n, int(sizes.max(initial=1))
        if self.options.deterministic:
            batch, longest = self.options.max_batch, max(longest, self.signature.chunk_samples)
        x = np.zeros((batch, longest, channels), np.float32)
        if longest == 1:
            x[:n] = np.concatenate(chunks).reshape(n, 1, channels) if sizes.all() else x[:n]
        else:
            for i, chunk in enumerate(chunks):
                x[i, : len(chunk)] = chunk
        lengths = np.zeros(batch, np.int64)
        lengths[:n] = sizes
        rows = np.full(batch, self.pool.spill_row, np.int64)
        rows[:n] = slots
        put = self.device
        return torch.from_numpy(x).to(put), torch.from_numpy(lengths).to(put), torch.from_numpy(rows).to(put)


def _join(parts: list[StepResult], sizes: list[int]) -> StepResult:
    """One result of several; rows are padded to the longest part, parts without outputs (failed rows) are zeros."""
    names = next((list(p.outputs) for p in parts if p.outputs), [])
    total, outputs, failed = sum(sizes), {}, {}
    lengths = np.concatenate([p.lengths for p in parts])
    for name in names:
        like = [p.outputs[name] for p in parts if p.outputs]
        frames = max(a.shape[1] for a in like)
        joined = np.zeros((total, frames, *like[0].shape[2:]), like[0].dtype)
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            if part.outputs:
                joined[start : start + size, : part.outputs[name].shape[1]] = part.outputs[name]
            start += size
        outputs[name] = joined
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        failed.update({start + i: reason for i, reason in part.failed.items()})
        start += size
    return StepResult(outputs, lengths, failed)


def finite_rows(state: State, outputs: Outputs) -> Tensor:
    """(B,) bool: rows whose every floating state leaf is finite and whose outputs hold no NaN.

    Outputs may hold infinities on purpose (log-probabilities of impossible labels); a state may not.
    """
    checks = [torch.isfinite(_by_row(leaf)).all(1) for leaf in state.values() if _counts(leaf)]
    checks += [~torch.isnan(_by_row(leaf)).any(1) for leaf in outputs.values() if _counts(leaf)]
    return torch.stack(checks).all(0) if checks else torch.ones(len(outputs["lengths"]), dtype=torch.bool)


def _counts(leaf: Tensor) -> bool:
    return leaf.is_floating_point() and leaf.numel() > 0


def _by_row(leaf: Tensor) -> Tensor:
    """(B, ...) as (B, N)."""
    return leaf.reshape(leaf.shape[0], -1)


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one. Raises ValueError for a device that torch does not know or have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but torch sees no GPU: use auto or cpu")
    return device


def lower_precision(model: StreamModel) -> StreamModel:
    """`model` in bf16 where it says how (a method `to_bfloat16`). Raises ValueError for a model that does not."""
    convert = getattr(model, "to_bfloat16", None)
    if convert is None:
        raise ValueError(f"{type(model).__name__} has no bfloat16 form: use dtype float32")
    return cast(StreamModel, convert())


def is_poisoned(error: Exception) -> bool:
    """Whether a CUDA error leaves the context unusable (everything but running out of memory does)."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error) or "CUBLAS_STATUS" in str(error)
