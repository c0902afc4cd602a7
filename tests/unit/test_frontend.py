"""The log-mel front end: chunked equals whole, rows are independent, silence about padding, equal to plain STFT."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.contract import State
from models.frontend import LogMel, mel_filters

CUTS = st.lists(st.integers(0, 1_900), min_size=1, max_size=12)


def noise(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def in_chunks(front: LogMel, signal: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    """All frames of one row whose signal comes in chunks of `sizes`, the rest last."""
    state, parts = front.init_state(1), []
    left = signal
    for size in [*sizes, len(signal)]:
        chunk, left = left[:size], left[size:]
        frames, counts, state = front(chunk[None, :, None], torch.tensor([len(chunk)]), state)
        parts.append(frames[0, : int(counts[0])])
    return torch.cat(parts), state


def reference(front: LogMel, signal: Tensor) -> Tensor:
    """Stacked log-mel frames by plain torch.stft over the whole signal."""
    spectrum = torch.stft(
        signal,
        n_fft=512,
        hop_length=160,
        window=torch.cat([torch.hann_window(400), torch.zeros(112)]),
        center=False,
        return_complex=True,
    )
    mel = torch.log(spectrum.abs().square().T @ mel_filters(16_000, 512, front.bands, 20.0, 7_600.0) + 1e-6)
    frames = len(mel) // front.stack
    return mel[: frames * front.stack].reshape(frames, front.features)


@settings(deadline=None, max_examples=40)
@given(sizes=CUTS, samples=st.integers(0, 6_000))
def test_any_chunking_gives_the_frames_and_the_state_of_the_whole_signal(sizes: list[int], samples: int) -> None:
    front = LogMel()
    whole, whole_state = in_chunks(front, noise(samples), [])
    chunked, chunked_state = in_chunks(front, noise(samples), sizes)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)
    assert torch.equal(chunked_state["samples"], whole_state["samples"])
    assert torch.equal(chunked_state["pending"], whole_state["pending"])


@pytest.mark.parametrize("samples", [719, 720, 1_199, 1_200, 16_000])
def test_a_frame_covers_720_samples_and_the_next_begins_480_later(samples: int) -> None:
    frames, _ = in_chunks(LogMel(), noise(samples), [])
    assert len(frames) == max(0, (samples - 720) // 480 + 1)


def test_frames_equal_a_log_mel_made_of_plain_torch_stft() -> None:
    front, signal = LogMel(), noise(16_000)
    frames, _ = in_chunks(front, signal, [700] * 20)
    expected = reference(front, signal)
    assert len(expected) <= len(frames) <= len(expected) + 1  # the reference's FFT needs 112 samples more
    torch.testing.assert_close(frames[: len(expected)], expected, atol=1e-4, rtol=0)


def test_a_row_without_samples_keeps_its_state_bit_for_bit_while_others_advance() -> None:
    front = LogMel()
    x = torch.stack([noise(2_000, 1), noise(2_000, 2)])[..., None]
    _, _, before = front(x, torch.tensor([1_111, 2_000]), front.init_state(2))
    _, counts, after = front(x, torch.tensor([0, 900]), before)
    assert counts.tolist()[0] == 0
    assert torch.equal(after["samples"][0], before["samples"][0])
    assert torch.equal(after["pending"][0], before["pending"][0])
    assert not torch.equal(after["samples"][1], before["samples"][1])


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 2_500), min_size=2, max_size=5))
def test_a_row_never_feels_its_neighbours_nor_what_stands_in_the_padding(lengths: list[int]) -> None:
    front = LogMel()
    x = torch.full((len(lengths), max(*lengths, 1), 1), float("nan"))
    for row, length in enumerate(lengths):
        x[row, :length, 0] = noise(length, row)
    frames, counts, _ = front(x, torch.tensor(lengths), front.init_state(len(lengths)))
    for row, length in enumerate(lengths):
        alone, _ = in_chunks(front, noise(length, row), [])
        assert int(counts[row]) == len(alone)
        torch.testing.assert_close(frames[row, : len(alone)], alone, atol=1e-5, rtol=0)
        assert torch.equal(frames[row, len(alone) :], torch.zeros_like(frames[row, len(alone) :]))


def test_a_step_leaves_the_given_state_and_samples_as_they_were() -> None:
    front, x = LogMel(), noise(1_600)[None, :, None]
    state = front.init_state(1)
    kept = {name: leaf.clone() for name, leaf in state.items()}
    kept_x = x.clone()
    front(x, torch.tensor([1_600]), state)
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert torch.equal(x, kept_x)


def test_normalisation_shifts_and_scales_each_band_and_padding_stays_zero() -> None:
    plain, scaled = LogMel(stack=1), LogMel(stack=1)
    scaled.mean.fill_(2.0)
    scaled.std.fill_(4.0)
    signal = noise(800)
    torch.testing.assert_close(in_chunks(scaled, signal, [])[0], (in_chunks(plain, signal, [])[0] - 2.0) / 4.0)


def test_a_pure_tone_is_loudest_in_the_band_around_it() -> None:
    front = LogMel(stack=1)
    tone = 0.5 * torch.sin(2 * torch.pi * 1_000.0 * torch.arange(1_600) / 16_000)
    band = int(in_chunks(front, tone, [])[0].mean(dim=0).argmax())
    assert int(front.filters[32].argmax()) == band  # bin 32 of a 512-point FFT at 16 kHz is 1000 Hz


def test_moving_a_model_to_bfloat16_leaves_the_front_end_exact() -> None:
    front, moved, signal = LogMel(), LogMel().to(torch.bfloat16), noise(3_000)
    assert torch.equal(in_chunks(moved, signal, [])[0], in_chunks(front, signal, [])[0])
