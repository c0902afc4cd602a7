"""Running a model in many ways that must not matter, and comparing what it gave: the tools of `conformance`.

Shape legend: R rows (streams), S samples of each, T samples of a step, C input channels, F frames.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
from torch import Tensor

from models.contract import Outputs, State, StreamModel

Promise = Literal["signature", "state", "purity", "masking", "company", "chunking"]
"""signature: what the model says of itself is so. state: every leaf is batch-first, finite and can be saved and
restored. purity: a step changes nothing that it was given or gave, and remembers nothing. masking: padding is seen by
nobody, and a row of length 0 keeps its state bit for bit. company: a row's outputs depend on that row alone.
chunking: any cut of a signal gives the same outputs."""

PADDING = 1e3
"""What stands where nobody may look. The runtime pads with zeros; a model that looks would get away with it there."""


class BrokenPromise(AssertionError):
    """A model does not keep the contract. promise: which part of it."""

    def __init__(self, promise: Promise, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise


@dataclass(frozen=True)
class Trial:
    """A model and what it is tried with. signal: (R, S, C)."""

    model: StreamModel
    signal: Tensor
    tolerance: float
    draw: random.Random

    @property
    def rows(self) -> int:
        return self.signal.shape[0]

    @property
    def samples(self) -> int:
        return self.signal.shape[1]

    def step(self, x: Tensor, lengths: Sequence[int], state: State) -> tuple[Outputs, State]:
        """One step over a copy of x, which a model may spoil; what it raises gets a note."""
        try:
            return self.model.step(x.clone(), torch.tensor(lengths, device=x.device), state)
        except Exception as error:
            error.add_note(f"raised by step of x {tuple(x.shape)} with lengths {list(lengths)}")
            raise

    def alone(self, row: int, sizes: Sequence[int] = ()) -> Outputs:
        """All frames (F, ...) of a row in chunks of `sizes` and then what is left, without any padding or company."""
        state, left = self.model.init_state(1), self.signal[row : row + 1]
        parts: list[Outputs] = []
        for size in [*sizes, self.samples]:
            chunk, left = left[:, :size], left[:, size:]
            if chunk.shape[1]:
                outputs, state = self.step(chunk, [chunk.shape[1]], state)
                parts.append(frames_of(outputs, 0))
        return joined(parts)

    def together(self, order: Sequence[int], cuts: Sequence[Sequence[int]] = ()) -> list[Outputs]:
        """All frames of the rows `order` in one batch; cuts: lengths of the rows in each step, then what is left."""
        state, parts = self.model.init_state(len(order)), [list[Outputs]() for _ in order]
        signal, done = self.signal[list(order)], [0] * len(order)
        for wanted in [*cuts, [self.samples] * len(order)]:
            lengths = [min(n, self.samples - at) for n, at in zip(wanted, done, strict=True)]
            x = signal.new_full((len(order), max(1, *lengths), signal.shape[2]), PADDING)
            for row, (n, at) in enumerate(zip(lengths, done, strict=True)):
                x[row, :n] = signal[row, at : at + n]
                done[row] += n
            outputs, state = self.step(x, lengths, state)
            for row, part in enumerate(parts):
                part.append(frames_of(outputs, row))
        return [joined(part) for part in parts]

    def compare(self, promise: Promise, found: Outputs, expected: Outputs, how: str) -> None:
        """Raises BrokenPromise when two runs over the same samples differ."""
        for name, right in expected.items():
            got = found[name]
            if got.shape != right.shape:
                broken(promise, f"{how} gives {name!r} of shape {tuple(got.shape)} instead of {tuple(right.shape)}")
            agree = torch.isclose(got, right, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
            if not agree.all():
                frame = int((~agree).reshape(len(agree), -1).any(1).nonzero()[0, 0])
                worst = float((got.double() - right.double())[~agree].abs().max())
                broken(promise, f"{how} changes {name!r} from frame {frame} on, by up to {worst:.3g}")


def broken(promise: Promise, text: str) -> NoReturn:
    raise BrokenPromise(promise, text)


def signals(model: StreamModel, rows: int, samples: int | None, seed: int) -> Tensor:
    """(R, S, C) as the signature describes the input, on the device of the model's state."""
    signature = model.signature
    audio = signature.input == "audio"
    if samples is None:
        frames = signature.latency_samples + 4 * signature.samples_per_frame
        samples = max(2 * signature.chunk_samples, frames, 32) + 7
    signal = torch.randn(rows, samples, signature.channels, generator=torch.Generator().manual_seed(seed))
    if audio:
        signal = (0.1 * signal).clamp(-1.0, 1.0)
    elif signature.missing:
        signal[:, 6::7] = torch.nan
    return signal.to(next((leaf.device for leaf in model.init_state(1).values()), torch.device("cpu")))


def frames_of(outputs: Outputs, row: int) -> Outputs:
    """The valid frames (F, ...) of a row."""
    return {name: leaf[row, : int(outputs["lengths"][row])] for name, leaf in outputs.items() if name != "lengths"}


def joined(parts: Sequence[Outputs]) -> Outputs:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())


def copied(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: leaf.clone() for name, leaf in leaves.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names of the leaves that are not what they were."""
    if before.keys() != after.keys():
        return sorted(before.keys() ^ after.keys())
    return [name for name, leaf in before.items() if not same_bits(leaf, after[name])]
