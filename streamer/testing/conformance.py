"""Does a model keep the promises of `models.contract`? One call tells, and says which promise is broken and how.

    from streamer.testing.conformance import check_stream_model

    def test_my_model_can_be_served() -> None:
        check_stream_model(MyModel().eval())

A model that passes gives under streamer what it gives over the whole signal at once, whatever the chunks, the batch
and the restarts were. Each promise is judged with what the earlier ones have settled, so the first that is broken is
named, not one that suffers from it.

Shape legend: R rows (streams), S samples of each, C input channels, F frames.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from models.contract import State, StreamModel
from streamer.testing.trial import (
    PADDING,
    BrokenPromise,
    Promise,
    Trial,
    broken,
    changed,
    copied,
    frames_of,
    joined,
    signals,
)

__all__ = ["BrokenPromise", "Promise", "check_stream_model"]

_FLOATS = (torch.float16, torch.float32, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SAVED_DTYPES = frozenset({*_FLOATS, *_WHOLE})
"""Types of state leaves that a saved state can hold."""
_SHORT = (1, 2, 1, 3)
"""Chunks shorter than a frame of any audio model, to begin with."""


def check_stream_model(
    model: StreamModel, *, seed: int = 0, rows: int = 4, samples: int | None = None, tolerance: float = 1e-5
) -> None:
    """Step `model` through random signals in many ways that must not matter.

    seed: of the signals and the cuts; rows: R, at least 2; samples: S, by default a few chunks and frames;
    tolerance: two numbers a, b agree when |a - b| <= tolerance * (1 + |b|). Audio is noise of a tenth of the full
    scale, events are standard normal (every seventh missing where the signature says that the model knows that).

    Raises BrokenPromise. An exception of the model itself comes through, with a note of what it was called with.
    """
    if rows < 2:
        raise ValueError(f"rows must be at least 2 to keep each other company, got {rows}")
    with torch.inference_mode():
        _check_signature(model)
        trial = Trial(model, signals(model, rows, samples, seed), tolerance, random.Random(seed))
        for check in _CHECKS:
            check(trial)


# --- signature -------------------------------------------------------------------------------------------------------


def _check_signature(model: StreamModel) -> None:
    if not isinstance(model, StreamModel):
        broken("signature", f"{type(model).__name__} lacks signature, init_state or step")
    said = model.signature
    if (said.rate_hz > 0) != (said.input == "audio"):
        broken("signature", f"rate_hz is {said.rate_hz} for {said.input}: audio has a sample rate, events have 0")
    for name in ("channels", "chunk_samples", "samples_per_frame"):
        if getattr(said, name) < 1:
            broken("signature", f"{name} is {getattr(said, name)}, the least is 1")
    if said.latency_samples < 0 or not said.outputs or "lengths" in said.outputs:
        broken("signature", f"latency_samples {said.latency_samples} or outputs {said.outputs} cannot be")


def _check_outputs(trial: Trial) -> None:
    """Names and shapes, and as many frames as `samples_per_frame` and `latency_samples` say: times depend on them."""
    said, whole = trial.model.signature, [trial.samples] * trial.rows
    outputs, _ = trial.step(trial.signal, whole, trial.model.init_state(trial.rows))
    if outputs.keys() != {*said.outputs, "lengths"}:
        broken("signature", f"step gives {sorted(outputs)}, the signature names {sorted(said.outputs)} and lengths")
    lengths = outputs["lengths"]
    if lengths.shape != (trial.rows,) or lengths.dtype != torch.int64:
        broken("signature", f"lengths is {lengths.dtype} {tuple(lengths.shape)}, not int64 ({trial.rows},)")
    for name in said.outputs:
        leaf = outputs[name]
        if leaf.dim() < 2 or leaf.shape[0] != trial.rows or leaf.shape[1] < int(lengths.max()):
            broken("signature", f"{name!r} has shape {tuple(leaf.shape)}: (batch, frames, ...) is due")
        if any(bool(torch.isnan(frames_of(outputs, row)[name]).any()) for row in range(trial.rows)):
            broken("signature", f"{name!r} holds NaN, which fails its row in the runtime")
    for count in (trial.samples, max(1, said.latency_samples) - 1):
        if count:
            given, _ = trial.step(trial.signal[:1, :count], [count], trial.model.init_state(1))
            due = max(0, (count - max(1, said.latency_samples)) // said.samples_per_frame + 1)
            if int(given["lengths"][0]) != due:
                text = f"{count} samples give {int(given['lengths'][0])} frames; by samples_per_frame and "
                broken("signature", f"{text}latency_samples it would be {due}")


# --- state -----------------------------------------------------------------------------------------------------------


def _check_state(trial: Trial) -> None:
    fresh = trial.model.init_state(1)
    for batch in (1, 2, trial.rows + 1):
        _check_leaves(trial.model.init_state(batch), fresh, batch, f"init_state({batch})")
        signal = trial.signal[:1].expand(batch, -1, -1)
        _, state = trial.step(signal, [trial.samples] * batch, trial.model.init_state(batch))
        _check_leaves(state, fresh, batch, f"the state after a step of {batch} rows")
    rows = trial.model.init_state(trial.rows)
    for row in range(trial.rows):
        if names := changed(fresh, {name: leaf[row : row + 1] for name, leaf in rows.items()}):
            broken("state", f"row {row} of init_state({trial.rows}) differs from init_state(1) in {', '.join(names)}")


def _check_leaves(state: State, fresh: State, batch: int, what: str) -> None:
    """Every leaf is (batch, ...), of the fresh state's type and shape, and finite."""
    if state.keys() != fresh.keys():
        broken("state", f"{what} has leaves {sorted(state)}, init_state(1) has {sorted(fresh)}")
    for name, leaf in state.items():
        if not isinstance(leaf, Tensor):
            broken("state", f"leaf {name!r} of {what} is a {type(leaf).__name__}, not a tensor")
        if leaf.shape != (batch, *fresh[name].shape[1:]) or leaf.dtype != fresh[name].dtype:
            due = f"{fresh[name].dtype} {(batch, *fresh[name].shape[1:])}"
            broken("state", f"leaf {name!r} of {what} is {leaf.dtype} {tuple(leaf.shape)}; batch-first it is {due}")
        if leaf.dtype not in SAVED_DTYPES:
            broken("state", f"leaf {name!r} is {leaf.dtype}, which cannot be saved: use float32")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            broken("state", f"leaf {name!r} of {what} holds NaN or infinity, which fails its row in the runtime")


def _check_restored(trial: Trial) -> None:
    """Every row saved on its own and brought back goes on as if nothing had been."""
    half, rest = trial.samples // 2, trial.samples - trial.samples // 2
    _, state = trial.step(trial.signal[:, :half], [half] * trial.rows, trial.model.init_state(trial.rows))
    saved = [{name: leaf[row].cpu().numpy().copy() for name, leaf in state.items()} for row in range(trial.rows)]
    went_on, _ = trial.step(trial.signal[:, half:], [rest] * trial.rows, state)
    restored = {
        name: torch.stack([torch.from_numpy(row[name]) for row in saved]).to(leaf.device)
        for name, leaf in state.items()
    }
    after, _ = trial.step(trial.signal[:, half:], [rest] * trial.rows, restored)
    for row in range(trial.rows):
        trial.compare("state", frames_of(after, row), frames_of(went_on, row), "a state that was saved and restored")


# --- purity ----------------------------------------------------------------------------------------------------------


def _check_purity(trial: Trial) -> None:
    half = trial.samples // 2
    _, state = trial.step(trial.signal[:, :half], [half] * trial.rows, trial.model.init_state(trial.rows))
    state = copied(state)  # the model may hold on to what it gave
    x, lengths = trial.signal[:, half:].clone(), torch.full((trial.rows,), trial.samples - half).to(trial.signal.device)
    given = {"x": x, "lengths": lengths, **{f"state[{name!r}]": leaf for name, leaf in state.items()}}
    before = copied(given)
    outputs, after = trial.model.step(x, lengths, state)
    if names := changed(before, given):
        broken("purity", f"step changed what it was given: {', '.join(names)}")
    kept = copied(outputs), copied(after)
    trial.step(trial.signal.flip(1), [trial.samples] * trial.rows, trial.model.init_state(trial.rows))
    if names := changed(kept[0], outputs) + changed(kept[1], after):
        broken("purity", f"a later step changed what an earlier one gave: {', '.join(names)}")
    again, _ = trial.model.step(x, lengths, state)
    for row in range(trial.rows):
        how = "the same step again, after another one (dropout left on, or something kept beside the state?),"
        trial.compare("purity", frames_of(again, row), frames_of(outputs, row), how)


# --- masking ---------------------------------------------------------------------------------------------------------


def _check_masking(trial: Trial) -> None:
    half = trial.samples // 2
    _, state = trial.step(trial.signal[:, :half], [half] * trial.rows, trial.model.init_state(trial.rows))
    kept = copied(state)
    for lengths in ([0] * trial.rows, [0 if row % 2 else half for row in range(trial.rows)]):
        outputs, after = trial.step(torch.full_like(trial.signal, PADDING), lengths, state)
        for row in (row for row, length in enumerate(lengths) if not length):
            was = {name: leaf[row] for name, leaf in kept.items()}
            if names := changed(was, {name: leaf[row] for name, leaf in after.items()}):
                broken("masking", f"a row of length 0 did not keep its state in {', '.join(names)}")
            if int(outputs["lengths"][row]):
                broken("masking", f"a row of length 0 gives {int(outputs['lengths'][row])} frames")
    for row in range(trial.rows):
        short = trial.draw.randrange(1, trial.samples)
        x = torch.cat([trial.signal[row : row + 1, :short], torch.full_like(trial.signal[:1], PADDING)], 1)
        first, state = trial.step(x, [short], trial.model.init_state(1))
        last, _ = trial.step(trial.signal[row : row + 1, short:], [trial.samples - short], state)
        plain = trial.alone(row, [short])
        trial.compare("masking", joined([frames_of(first, 0), frames_of(last, 0)]), plain, "padding behind a row")


# --- company and chunking --------------------------------------------------------------------------------------------


def _check_company(trial: Trial) -> None:
    rows = range(trial.rows)
    alone = [trial.alone(row) for row in rows]
    for order in (list(rows), list(reversed(rows)), [0, *rows], [0] * 2):
        for row, found in zip(order, trial.together(order), strict=True):
            trial.compare("company", found, alone[row], f"a batch of the rows {order} for row {row}")
    cuts = [[trial.draw.randrange(trial.samples // 2) for _ in rows] for _ in range(4)]
    for row, found in zip(rows, trial.together(list(rows), cuts), strict=True):
        plain = trial.alone(row, [lengths[row] for lengths in cuts if lengths[row]])
        trial.compare("company", found, plain, f"neighbours of other lengths for row {row}")


def _check_chunking(trial: Trial) -> None:
    whole = trial.samples
    preferred = min(trial.model.signature.chunk_samples, whole)
    cuts = [[preferred] * (whole // preferred), list(_SHORT), [whole - 1]]
    cuts += [[trial.draw.randrange(1, whole // 2) for _ in range(whole)] for _ in range(3)]
    for row in range(trial.rows):
        expected = trial.alone(row)
        for sizes in cuts:
            shown = ", ".join(map(str, sizes[:4])) + (", ..." if len(sizes) > 4 else "")
            trial.compare("chunking", trial.alone(row, sizes), expected, f"a cut into chunks of {shown}")


# Saving is tried when steps are known to repeat themselves: dropout left on is no fault of the state.
_CHECKS = (
    _check_outputs,
    _check_state,
    _check_purity,
    _check_restored,
    _check_masking,
    _check_company,
    _check_chunking,
)
