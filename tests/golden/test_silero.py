"""The rebuilt Silero VAD against onnxruntime's output for the published network (silero_vad/README.md of the data)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from models import bundle
from models.contract import State, StreamModel

DATA = Path(os.environ.get("STREAMER_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "silero_vad").is_dir(), reason=f"no silero_vad in {DATA}")
pytestmark = [pytest.mark.data, needs_data]


class Golden(NamedTuple):
    """signal: (T,) of the recording; probability: (1875,); h, c: (128,) after the last chunk."""

    signal: torch.Tensor
    probability: torch.Tensor
    h: torch.Tensor
    c: torch.Tensor


@pytest.fixture(scope="module")
def golden() -> Golden:
    samples, rate_hz = soundfile.read(DATA / "test_wavs" / "silero_test.wav", dtype="float32")
    assert rate_hz == 16_000
    table = np.loadtxt(DATA / "silero_vad" / "golden_probs_test_wav.csv", delimiter=",", skiprows=1)
    final = np.load(DATA / "silero_vad" / "golden_final_state.npz")
    h, c = torch.from_numpy(final["h"]), torch.from_numpy(final["c"])
    return Golden(torch.from_numpy(samples), torch.from_numpy(table[:, 1]).float(), h, c)


@pytest.fixture(scope="module")
def vad() -> StreamModel:
    return bundle.load("silero-vad").model


def stream(vad: StreamModel, signal: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, State]:
    """All probabilities of a signal cut into chunks of `sizes`, over and over, and the state after it."""
    state, found, start, turn = vad.init_state(1), [], 0, 0
    while start < len(signal):
        chunk = signal[start : start + sizes[turn % len(sizes)]]
        outputs, state = vad.step(chunk.reshape(1, -1, 1), torch.tensor([len(chunk)]), state)
        found.append(outputs["probability"][0, : int(outputs["lengths"][0])])
        start, turn = start + len(chunk), turn + 1
    return torch.cat(found), state


def agree(probability: torch.Tensor, state: State, golden: Golden, row: int = 0) -> None:
    torch.testing.assert_close(probability, golden.probability, rtol=0, atol=1e-5)
    torch.testing.assert_close(state["h"][row], golden.h, rtol=0, atol=5e-5)
    torch.testing.assert_close(state["c"][row], golden.c, rtol=0, atol=5e-5)


def test_chunks_of_512_give_the_published_probabilities(vad: StreamModel, golden: Golden) -> None:
    agree(*stream(vad, golden.signal, [512]), golden)


@pytest.mark.parametrize("seed", [0, 1])
def test_chunks_of_any_size_give_the_published_probabilities(vad: StreamModel, golden: Golden, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 4000, size=200).tolist()
    agree(*stream(vad, golden.signal, sizes), golden)


def test_a_batch_with_other_streams_gives_the_published_probabilities(vad: StreamModel, golden: Golden) -> None:
    others = [golden.signal.flip(0), golden.signal * 0, golden.signal.roll(12_345)]
    x = torch.stack([others[0], others[1], golden.signal, others[2]]).unsqueeze(2)
    state, found = vad.init_state(4), []
    for start in range(0, x.shape[1], 1600):
        chunk = x[:, start : start + 1600]
        lengths = torch.tensor([chunk.shape[1], 700, chunk.shape[1], 1])
        outputs, state = vad.step(chunk, lengths.clamp(max=chunk.shape[1]), state)
        found.append(outputs["probability"][2, : int(outputs["lengths"][2])])
    agree(torch.cat(found), state, golden, row=2)


def test_a_network_reset_at_every_chunk_gives_something_else(vad: StreamModel, golden: Golden) -> None:
    chunks = golden.signal.reshape(-1, 512, 1)
    fresh = vad.init_state(len(chunks))
    fresh["context"][1:] = chunks[:-1, -64:, 0]  # only h and c are forgotten
    outputs, _ = vad.step(chunks, torch.full((len(chunks),), 512), fresh)
    same = (outputs["probability"][:, 0] > 0.5) == (golden.probability > 0.5)
    assert round(100 * same.double().mean().item(), 1) == 57.4
