"""The Silero network as a streaming model, with random weights: what holds whatever it has learnt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import Outputs, State, StreamModel
from models.speech.silero import CONTEXT_SAMPLES, FRAME_SAMPLES, SileroVad

SAMPLES = 3 * FRAME_SAMPLES + 200


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    torch.manual_seed(7)
    module = SileroVad().eval().requires_grad_(False)
    module.final_conv.weight *= 20  # untrained, it would say 0.5 to everything
    return module


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1)) * 0.3


def run(vad: SileroVad, row: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, State]:
    """One stream in chunks of `sizes` and then what is left: all probabilities (F,), and the last state."""
    state, found, start = vad.init_state(1), [], 0
    for size in [*sizes, len(row)]:
        chunk = row[start : start + size]
        outputs, state = vad.step(chunk.reshape(1, -1, 1), torch.tensor([len(chunk)]), state)
        found.append(outputs["probability"][0, : int(outputs["lengths"][0])])
        start += size
    return torch.cat(found), state


def offline(vad: SileroVad, row: torch.Tensor) -> torch.Tensor:
    """Every frame by its own slice of the whole signal, and torch's LSTM over all of them at once."""
    padded = torch.cat([torch.zeros(CONTEXT_SAMPLES), row])
    frames = [
        padded[i : i + CONTEXT_SAMPLES + FRAME_SAMPLES] for i in range(0, len(row) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    ]
    x = torch.stack(frames)
    x = torch.cat([x, x[:, -65:-1].flip(1)], dim=1)  # 64 samples mirrored at the right
    spectrum = vad.stft_conv(x.unsqueeze(1))
    y = torch.hypot(spectrum[:, :129], spectrum[:, 129:])
    for layer in (vad.conv1, vad.conv2, vad.conv3, vad.conv4):
        y = layer(y).clamp(min=0)
    lstm = torch.nn.LSTM(128, 128, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": leaf for name, leaf in vad.lstm_cell.state_dict().items()})
    h = lstm(y[:, :, 0].unsqueeze(0))[0][0]
    return torch.sigmoid(h.clamp(min=0) @ vad.final_conv.weight[0, :, 0] + vad.final_conv.bias)


def test_it_is_a_stream_model(vad: SileroVad) -> None:
    assert isinstance(vad, StreamModel)
    assert (vad.signature.rate_hz, vad.signature.samples_per_frame) == (16_000, 512)


def test_the_whole_signal_equals_torch_offline(vad: SileroVad, noise: torch.Tensor) -> None:
    streamed, _ = run(vad, noise[0], [])
    expected = offline(vad, noise[0])
    assert len(streamed) == 3
    assert expected.std() > 1e-3
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 1200), max_size=8))
def test_any_cut_into_chunks_gives_the_same(vad: SileroVad, noise: torch.Tensor, sizes: list[int]) -> None:
    whole, state_whole = run(vad, noise[0], [])
    cut, state_cut = run(vad, noise[0], sizes)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(state_cut, state_whole, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, SAMPLES), min_size=3, max_size=3))
def test_a_row_does_not_depend_on_its_company(vad: SileroVad, noise: torch.Tensor, lengths: list[int]) -> None:
    x = noise.clone()
    for row, length in enumerate(lengths):
        x[row, length:] = torch.nan  # padding that nobody may look at
    together, states = vad.step(x.unsqueeze(2), torch.tensor(lengths), vad.init_state(3))
    for row, length in enumerate(lengths):
        alone, state = run(vad, noise[row, :length], [])
        assert int(together["lengths"][row]) == len(alone) == length // FRAME_SAMPLES
        torch.testing.assert_close(together["probability"][row, : len(alone)], alone, rtol=0, atol=1e-5)
        for name, leaf in state.items():
            torch.testing.assert_close(states[name][row], leaf[0], rtol=0, atol=1e-5)


def test_a_row_without_samples_keeps_its_state_bit_for_bit(vad: SileroVad, noise: torch.Tensor) -> None:
    x, lengths = noise.unsqueeze(2), torch.tensor([SAMPLES, 100, 900])
    _, state = vad.step(x, lengths, vad.init_state(3))
    kept = {name: leaf.clone() for name, leaf in state.items()}
    _, after = vad.step(x, torch.tensor([0, 600, 0]), state)
    for name, leaf in state.items():
        assert torch.equal(after[name][[0, 2]], kept[name][[0, 2]])
        assert torch.equal(leaf, kept[name])  # and the state that went in is untouched
    assert int(after["pending_samples"][1]) == 700 - FRAME_SAMPLES


def test_a_step_without_samples_gives_no_frame(vad: SileroVad) -> None:
    outputs: Outputs
    outputs, _ = vad.step(torch.zeros(2, 0, 1), torch.zeros(2, dtype=torch.int64), vad.init_state(2))
    assert outputs["lengths"].tolist() == [0, 0]


def test_two_channels_are_refused(vad: SileroVad) -> None:
    with pytest.raises(ValueError, match=r"\(B, T, 1\)"):
        vad.step(torch.zeros(1, 512, 2), torch.tensor([512]), vad.init_state(1))
