"""The streaming resampler: any chunking the same bits, any rate right, no drift."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.codecs.resample import BETA, ROLLOFF, ZEROS, Resampler, ResamplerState
from streamer.errors import ConfigurationError

RATES_HZ = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]
Signal = NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * np.float32(0.1)


def whole(resampler: Resampler, signal: Signal) -> Signal:
    state, out = resampler.step(resampler.init_state(), signal)
    return np.concatenate((out, resampler.flush(state)[1]))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_whole_signal_equals_torchaudios_offline_resampling(rate_hz: int) -> None:
    signal = noise(rate_hz // 2 + 7)
    offline = torchaudio.functional.resample(
        torch.from_numpy(signal),
        rate_hz,
        16_000,
        lowpass_filter_width=ZEROS,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=BETA,
    ).numpy()
    ours = whole(Resampler(rate_hz, 16_000), signal)
    assert ours.shape == offline.shape
    assert np.abs(ours - offline).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([*RATES_HZ, 12_345]),
    cuts=st.lists(st.integers(0, 700), min_size=1, max_size=12),
    seed=st.integers(0, 100),
)
def test_any_chunking_gives_the_same_bits(rate_hz: int, cuts: list[int], seed: int) -> None:
    resampler = Resampler(rate_hz, 16_000)
    signal = noise(sum(cuts), seed)
    state, parts, start = resampler.init_state(), [], 0
    for cut in cuts:
        state, out = resampler.step(state, signal[start : start + cut])
        parts.append(out)
        start += cut
    parts.append(resampler.flush(state)[1])
    assert np.array_equal(np.concatenate(parts), whole(resampler, signal))


def test_a_state_that_was_saved_and_loaded_goes_on_the_same_and_the_old_one_is_unchanged() -> None:
    resampler = Resampler(44_100, 16_000)
    first, second = noise(1000), noise(1000, seed=1)
    state, _ = resampler.step(resampler.init_state(), first)
    before = {name: value.copy() for name, value in state.to_arrays().items()}
    loaded = ResamplerState.from_arrays(before)
    straight = resampler.step(state, second)[1]
    assert np.array_equal(resampler.step(loaded, second)[1], straight)
    assert all(np.array_equal(before[name], value) for name, value in state.to_arrays().items())


def test_a_flushed_stream_begins_anew() -> None:
    resampler = Resampler(48_000, 16_000)
    state, first = resampler.step(resampler.init_state(), noise(500))
    state, tail = resampler.flush(state)
    again, second = resampler.step(state, noise(500))
    assert np.array_equal(second, first)
    assert np.array_equal(resampler.flush(again)[1], tail)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(samples=st.integers(0, 3000))
@settings(max_examples=20, deadline=None)
def test_n_samples_give_exactly_their_share_rounded_up(rate_hz: int, samples: int) -> None:
    assert len(whole(Resampler(rate_hz, 16_000), noise(samples))) == ceil(samples * 16_000 / rate_hz)


def test_ten_hours_in_the_count_of_samples_does_not_drift() -> None:
    resampler = Resampler(44_100, 16_000)
    late = ResamplerState(resampler.init_state().history, consumed=36_000 * 44_100, produced=36_000 * 16_000)
    signal = noise(44_100)
    state, out = resampler.step(late, signal)
    _, first = resampler.step(resampler.init_state(), signal)
    assert np.array_equal(out, first)
    assert state.produced - late.produced == len(first)


def test_a_tone_keeps_its_place_in_time_and_its_height() -> None:
    time_s = np.arange(48_000) / 48_000
    out = whole(Resampler(48_000, 16_000), np.sin(2 * np.pi * 1000 * time_s).astype(np.float32))
    wanted = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert np.abs(out - wanted)[200:-200].max() < 1e-3


def test_what_the_lower_rate_cannot_hold_is_taken_out() -> None:
    time_s = np.arange(48_000) / 48_000
    out = whole(Resampler(48_000, 16_000), np.sin(2 * np.pi * 10_000 * time_s).astype(np.float32))
    assert np.abs(out[200:-200]).max() < 1e-3


def test_the_same_rate_passes_samples_through_untouched() -> None:
    signal = noise(100)
    resampler = Resampler(16_000, 16_000)
    state, out = resampler.step(resampler.init_state(), signal)
    assert out is signal
    assert (state.consumed, resampler.delay_s) == (100, 0.0)
    assert len(resampler.flush(state)[1]) == 0


def test_an_impossible_rate_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="0 Hz"):
        Resampler(0, 16_000)
