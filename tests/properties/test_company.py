"""Promises 1, 2 and 5: neither chunking nor company changes what a stream is told, against plain torch offline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.contract import Outputs, State, StreamModel
from models.speech.model import CtcLstm
from streamer.codecs.messages import Prediction
from streamer.log.memory import MemoryLog
from streamer.options import EngineOptions
from streamer.testing.models import RunningSum, TinyGru
from streamer.testing.serving import Serving, event, options_of

Signals = dict[str, list[int]]
SIGNALS = st.dictionaries(
    st.sampled_from([f"s{n}" for n in range(12)]), st.lists(st.integers(-9, 9), min_size=1, max_size=12), min_size=1
)
ENGINES = st.builds(
    EngineOptions,
    max_batch=st.integers(1, 5),
    slots=st.integers(1, 8),
    deterministic=st.booleans(),
    chunks_per_call=st.integers(1, 4),
    device=st.just("cpu"),
)


def tiny_gru() -> TinyGru:
    return TinyGru(channels=1, hidden=5, layers=2)


async def answers(make: Callable[[], StreamModel], signals: Signals, engine: EngineOptions) -> dict[str, list[float]]:
    """What each stream is told, in order, when all signals are fed in turns."""
    bench = Serving(MemoryLog(), make, options_of(engine=engine))
    await bench.create_topics()
    longest = max(len(values) for values in signals.values())
    await bench.feed([event(name, v[i]) for i in range(longest) for name, v in signals.items() if i < len(v)])
    await bench.serve()
    told: dict[str, list[float]] = {name: [] for name in signals}
    for message in await bench.said():
        if isinstance(message.body, Prediction):
            assert message.body.outputs is not None
            told[message.subject] += message.body.outputs["y"]
    return told


@settings(max_examples=25, deadline=None)
@given(SIGNALS, ENGINES)
def test_a_sum_is_exact_in_any_company_batch_and_pool(signals: Signals, engine: EngineOptions) -> None:
    told = asyncio.run(answers(RunningSum, signals, engine))
    assert told == {name: np.cumsum(values).tolist() for name, values in signals.items()}


@settings(max_examples=15, deadline=None)
@given(SIGNALS, ENGINES)
def test_a_gru_gives_what_one_offline_call_over_the_whole_signal_gives(signals: Signals, engine: EngineOptions) -> None:
    told = asyncio.run(answers(tiny_gru, signals, engine))
    network = tiny_gru()
    for name, values in signals.items():
        hidden, _ = network.gru(torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1))
        np.testing.assert_allclose(told[name], network.out(hidden).flatten().numpy(), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(SIGNALS, st.integers(1, 8))
def test_in_deterministic_mode_company_does_not_change_a_bit(signals: Signals, slots: int) -> None:
    engine = EngineOptions(max_batch=4, slots=slots, deterministic=True, device="cpu")
    together = asyncio.run(answers(fixed_gru, signals, engine))
    name = next(iter(signals))
    alone = asyncio.run(answers(fixed_gru, {name: signals[name]}, engine))
    assert together[name] == alone[name]


class FixedGru(TinyGru):
    """Steps all rows whatever their lengths, as a model must whose bits do not depend on its company: one sample."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        seen, last = self.gru(x[:, :1], state["h"].transpose(0, 1).contiguous())
        kept = torch.where((lengths > 0)[:, None, None], last.transpose(0, 1), state["h"])
        return {"y": self.out(seen), "lengths": lengths}, {"h": kept}


def fixed_gru() -> FixedGru:
    return FixedGru(channels=1, hidden=5, layers=2)


def cut_and_stepped(model: StreamModel, signal: Tensor, cuts: list[int]) -> tuple[Tensor, State]:
    """The frames that a (T, C) signal gives, cut at `cuts`, in the company of a row of noise; and the last state."""
    state, frames = model.init_state(2), []
    noise = torch.Generator().manual_seed(1)
    edges = sorted({0, *(c for c in cuts if c < len(signal)), len(signal)})
    for begin, end in pairwise(edges):
        chunk = signal[begin:end]
        x = torch.stack([chunk, torch.randn(chunk.shape, generator=noise)])
        outputs, state = model.step(x, torch.tensor([len(chunk), len(chunk)]), state)
        frames.append(outputs[model.signature.outputs[0]][0, : int(outputs["lengths"][0])])
    return torch.cat(frames), state


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 7_999), max_size=12))
def test_speech_is_heard_the_same_however_it_is_cut(cuts: list[int]) -> None:
    torch.manual_seed(0)
    model = CtcLstm(hidden=8, layers=1, bands=20).eval().requires_grad_(False)
    signal = torch.randn(8_000, 1) * 0.1
    whole, _ = cut_and_stepped(model, signal, [])
    pieces, _ = cut_and_stepped(model, signal, cuts)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    assert pieces.argmax(-1).tolist() == whole.argmax(-1).tolist()


def test_a_slot_that_is_used_again_shows_nothing_of_the_stream_before() -> None:
    """One slot, many streams, each ended before the next: every one begins at nothing."""
    engine = EngineOptions(max_batch=1, slots=1, device="cpu")
    signals = {f"s{n}": [n + 1] for n in range(20)}

    async def told() -> list[float]:
        bench = Serving(MemoryLog(), RunningSum, options_of(engine=engine))
        await bench.create_topics()
        await bench.feed([event(name, values[0], x_eos="1") for name, values in signals.items()])
        await bench.serve()
        said = await bench.said()
        return [m.body.outputs["y"][0] for m in said if isinstance(m.body, Prediction) and m.body.outputs]

    assert asyncio.run(told()) == [n + 1.0 for n in range(20)]
