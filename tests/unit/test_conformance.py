"""The public checker of models: what keeps the contract passes, and each promise that is broken is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models import bundle
from models.contract import Outputs, State, StreamModel
from models.sensor.model import Forecaster
from models.speech.model import CtcLstm
from models.speech.silero import SileroVad
from streamer.testing.conformance import BrokenPromise, check_stream_model
from streamer.testing.models import RunningSum, TinyGru


def untrained_forecaster() -> Forecaster:
    torch.manual_seed(5)
    return Forecaster(columns=2, hidden=8).eval()


def untrained_speech() -> CtcLstm:
    torch.manual_seed(5)
    return CtcLstm(hidden=8, layers=2, bands=20).eval()


def untrained_voice_activity() -> SileroVad:
    torch.manual_seed(5)
    return SileroVad().eval()


@pytest.mark.parametrize(
    "make",
    [RunningSum, lambda: RunningSum(3), TinyGru, untrained_forecaster, untrained_speech, untrained_voice_activity],
    ids=["sum", "sum of three columns", "gru", "forecaster", "speech", "voice activity"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_of_ours_keeps_the_contract(make: Any, seed: int) -> None:
    check_stream_model(make(), seed=seed)


@pytest.mark.parametrize("name", ["speech-en", "machine-forecaster"])
def test_a_packaged_model_keeps_the_contract(name: str) -> None:
    check_stream_model(bundle.load(name).model, rows=3)


def cumulative(x: Tensor, lengths: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums (B, T, 1) over the valid samples of (B, T, C), and the last of them (B, 1)."""
    valid = torch.arange(x.shape[1]) < lengths[:, None]
    added = torch.where(valid[:, :, None], x, 0.0).sum(2, keepdim=True)
    return before[:, None] + added.cumsum(1), before + added.sum(1)


class OtherName(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, state = super().step(x, lengths, state)
        return {"total": outputs["y"], "lengths": lengths}, state


class FramesLast(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, state = super().step(x, lengths, state)
        return {"y": outputs["y"].transpose(1, 2), "lengths": lengths}, state


class OnlyTheLastFrame(RunningSum):
    """One frame a step, whatever it was given: says of itself that every sample has one."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        _, state = super().step(x, lengths, state)
        return {"y": state["sum"][:, None], "lengths": (lengths > 0).long()}, state


class AudioWithoutRate(RunningSum):
    def __init__(self) -> None:
        super().__init__()
        self.signature = replace(self.signature, input="audio")


class LayersFirst(TinyGru):
    """Keeps torch's own layout of a recurrent state, (layers, batch, hidden)."""

    def init_state(self, batch: int) -> State:
        return {"h": torch.zeros(self.layers, batch, self.hidden)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, {"h": state["h"].transpose(0, 1)})
        return outputs, {"h": after["h"].transpose(0, 1)}


class HalfPrecisionState(RunningSum):
    def init_state(self, batch: int) -> State:
        return {"sum": torch.zeros(batch, 1, dtype=torch.bfloat16)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, {"sum": state["sum"].float()})
        return outputs, {"sum": after["sum"].bfloat16()}


class EndlessMaximum(RunningSum):
    """Begins at minus infinity, which the engine takes for a row that went wrong."""

    def init_state(self, batch: int) -> State:
        return super().init_state(batch) | {"largest": torch.full((batch, 1), -torch.inf)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return outputs, after | {"largest": state["largest"]}


class StateBesideTheState(RunningSum):
    """Finds the sum by the tensor that it gave before, not by what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[Tensor, Tensor]] = []

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        nothing = torch.zeros(len(x), 1)
        before = next((total for given, total in self.known if given is state["sum"]), nothing)
        y, last = cumulative(x, lengths, before)
        self.known.append((nothing, last))
        return {"y": y, "lengths": lengths}, {"sum": nothing}


class AddsInPlace(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        state["sum"].copy_(after["sum"])
        return outputs, after


class ScalesItsInput(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        return super().step(x.mul_(0.5), lengths, state)


class Remembers(RunningSum):
    """Goes on from its own last call."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1)

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        y, self.last = outputs["y"] + self.last, after["sum"].mean()[None]
        return {"y": y, "lengths": lengths}, after


class OneBuffer(RunningSum):
    """Gives the same tensor for its state each time."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, Tensor] = {}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        buffer = self.buffers.setdefault(len(x), torch.zeros(len(x), 1))
        return outputs, {"sum": buffer.copy_(after["sum"])}


class Dropout(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return {"y": nn.functional.dropout(outputs["y"], 0.5, training=True), "lengths": lengths}, after


class SumsThePadding(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        y, last = cumulative(x, torch.full_like(lengths, x.shape[1]), state["sum"])
        return {"y": y, "lengths": lengths}, {"sum": torch.where(lengths[:, None] > 0, last, state["sum"])}


class CountsEmptySteps(RunningSum):
    """A row that has nothing to step forgets a little all the same."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return outputs, {"sum": torch.where(lengths[:, None] > 0, after["sum"], after["sum"] * 0.999)}


class BatchNormalised(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        valid = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        return super().step(x / (1 + x[valid.expand_as(x)].abs().mean()), lengths, state)


class KnowsItsPlace(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        return super().step(x + torch.arange(len(x))[:, None, None], lengths, state)


class NormalisedByChunk(RunningSum):
    """Subtracts the mean of the chunk at hand, which is another one after every cut."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        valid = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        mean = torch.where(valid, x, 0.0).sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
        return super().step(x - mean, lengths, state)


class ForgetsItsOverlap(RunningSum):
    """A difference to the sample before, which at the start of every chunk is taken for zero."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        return super().step(x.diff(dim=1, prepend=torch.zeros_like(x[:, :1])), lengths, state)


@pytest.mark.parametrize(
    ("model", "promise", "text"),
    [
        (OtherName(), "signature", r"step gives \['lengths', 'total'\], the signature names \['y'\]"),
        (FramesLast(), "signature", r"'y' has shape \(4, 1, 39\): \(batch, frames, ...\) is due"),
        (OnlyTheLastFrame(), "signature", "39 samples give 1 frames; .* it would be 39"),
        (AudioWithoutRate(), "signature", "rate_hz is 0 for audio"),
        (cast(StreamModel, object()), "signature", "object lacks signature"),
        (LayersFirst(1, 4, 2), "state", r"leaf 'h' of init_state\(1\) .*; batch-first it is"),
        (HalfPrecisionState(), "state", "leaf 'sum' is torch.bfloat16, which cannot be saved"),
        (EndlessMaximum(), "state", "leaf 'largest' .* holds NaN or infinity"),
        (StateBesideTheState(), "state", "a state that was saved and restored changes 'y' from frame 0 on"),
        (AddsInPlace(), "purity", r"step changed what it was given: state\['sum'\]"),
        (ScalesItsInput(), "purity", "step changed what it was given: x"),
        (Remembers(), "purity", "the same step again"),
        (OneBuffer(), "purity", "a later step changed what an earlier one gave: sum"),
        (Dropout(), "purity", "dropout left on"),
        (SumsThePadding(), "masking", "padding behind a row changes 'y'"),
        (CountsEmptySteps(), "masking", "a row of length 0 did not keep its state in sum"),
        (BatchNormalised(), "company", "a batch of the rows"),
        (KnowsItsPlace(), "company", "a batch of the rows"),
        (NormalisedByChunk(), "chunking", "a cut into chunks of 1, 1, 1, 1, ... changes 'y'"),
        (ForgetsItsOverlap(), "chunking", "a cut into chunks of 1, 1, 1, 1, ... changes 'y'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_a_broken_promise_is_named(model: StreamModel, promise: str, text: str) -> None:
    with pytest.raises(BrokenPromise, match=text) as broken:
        check_stream_model(model)
    assert broken.value.promise == promise
    assert str(broken.value).startswith(f"{promise}: ")


class Refuses(RunningSum):
    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        raise ArithmeticError("the model's own trouble")


def test_an_exception_of_the_model_comes_through_with_what_it_was_called_with() -> None:
    with pytest.raises(ArithmeticError, match="own trouble") as raised:
        check_stream_model(Refuses())
    assert raised.value.__notes__ == ["raised by step of x (4, 39, 1) with lengths [39, 39, 39, 39]"]


class SlightlyOff(RunningSum):
    """Rounds its sum to thousandths at the end of each chunk: a small difference that some may call none."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return outputs, {"sum": torch.where(lengths[:, None] > 0, after["sum"].round(decimals=3), state["sum"])}


def test_how_close_is_close_can_be_said() -> None:
    check_stream_model(SlightlyOff(), tolerance=0.05)
    with pytest.raises(BrokenPromise, match="chunking"):
        check_stream_model(SlightlyOff())


def test_rows_without_company_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        check_stream_model(RunningSum(), rows=1)
