"""The streaming front end: PCM to stacked log-mel frames, its overlap carried as explicit state.

The state is the last `window - 1` samples of the stream and how many of them no frame has consumed yet, so that any
chunking gives the frames of the whole signal. There is no centring and no look-ahead: frame k covers the samples
[k * hop, k * hop + window). Nothing here reads a tensor's value on the host, so the step can be captured in a graph.
This module knows nothing of text, alphabets or recurrent layers.

Shape legend: B rows, T samples of the longest row, F stacked frames of the longest row, S analysis windows per
stacked frame, M mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from models.contract import State
from models.scripted import scripted

_FLOOR = 1e-6  # -82 dBFS of white noise: below it lies the quantisation noise of 16-bit recordings


def mel_filters(rate_hz: int, fft_size: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangular filters on the HTK mel scale, (fft_size // 2 + 1, bands), each with peak 1.

    Source: S. Young et al., The HTK Book, section 5.6 (mel(f) = 2595 log10(1 + f / 700)).
    """

    def mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    bins_hz = torch.linspace(0.0, rate_hz / 2, fft_size // 2 + 1, dtype=torch.float64)
    edges_mel = torch.linspace(mel(low_hz), mel(high_hz), bands + 2, dtype=torch.float64)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - left) / (centre - left)
    falling = (right - bins_hz[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0).float()


class LogMel(nn.Module):
    """Log-mel features of ragged, chunked PCM, `stack` neighbouring frames joined to one.

    rate_hz: of the input; bands: M; window_samples, hop_samples: of one analysis window; stack: S. One output frame
    covers `window` samples and advances by `hop` samples. `mean` and `std` (M,) are fixed buffers set by training:
    a global normalisation is the only one that needs no state and no look-ahead.
    """

    window_function: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        rate_hz: int = 16_000,
        bands: int = 80,
        window_samples: int = 400,
        hop_samples: int = 160,
        stack: int = 3,
        low_hz: float = 20.0,
        high_hz: float = 7_600.0,
    ) -> None:
        super().__init__()
        self.bands, self.stack = bands, stack
        self.window_samples, self.hop_samples = window_samples, hop_samples
        self.fft_size = 1 << (window_samples - 1).bit_length()
        # Constants follow from the arguments: they are no weights and are not saved.
        self.register_buffer("window_function", torch.hann_window(window_samples, periodic=True), persistent=False)
        self.register_buffer("filters", mel_filters(rate_hz, self.fft_size, bands, low_hz, high_hz), persistent=False)
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a move to another device, but never to another type: log energies need float32."""

        def moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def window(self) -> int:
        """Samples that one output frame covers."""
        return self.window_samples + (self.stack - 1) * self.hop_samples

    @property
    def hop(self) -> int:
        """Samples that one output frame advances by."""
        return self.stack * self.hop_samples

    @property
    def features(self) -> int:
        """Width of one output frame, S * M."""
        return self.stack * self.bands

    def init_state(self, batch: int) -> State:
        """`samples` (B, window - 1) float32: the stream's last samples; `pending` (B,) int64: how many are unused."""
        device = self.filters.device
        return {
            "samples": torch.zeros(batch, self.window - 1, device=device),
            "pending": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Take in each row's samples and give the frames they complete.

        x: (B, T, 1) PCM in [-1, 1]; lengths: (B,) int64, valid samples per row; state: as of `init_state`.
        Returns frames (B, F, S * M) float32 with zeros in the padding, their count per row (B,) int64, the new state.
        """
        frames, counts, samples, pending = _frames(
            x,
            lengths,
            state["samples"],
            state["pending"],
            self.window,
            self.hop,
            self.window_samples,
            self.hop_samples,
            self.window_function,
            self.filters,
            self.mean,
            self.std,
        )
        return frames, counts, {"samples": samples, "pending": pending}

    def log_mel(self, signal: Tensor) -> Tensor:
        """Log-mel energies of every whole analysis window, not stacked or normalised: (B, N) to (B, windows, M)."""
        return _log_mel(signal, self.window_samples, self.hop_samples, self.window_function, self.filters)


def _log_mel(
    signal: Tensor,
    window_samples: int,
    hop_samples: int,
    window_function: Tensor,
    filters: Tensor,
    floor: float = _FLOOR,
) -> Tensor:
    windows = signal.unfold(1, window_samples, hop_samples) * window_function
    spectrum = torch.fft.rfft(windows, n=2 * (filters.shape[0] - 1))
    power = torch.real(spectrum).square() + torch.imag(spectrum).square()
    return torch.log(power @ filters + floor)


def _unused(signal: Tensor, start: Tensor, total: Tensor, needed: int) -> Tensor:
    """Each row's `total` unused samples from `start` on, left-aligned in (B, needed), zeros behind them."""
    steps = torch.arange(needed, device=signal.device)
    index = (start[:, None] + steps).clamp(max=signal.shape[1] - 1)
    # `where` and not a product: what stands in the padding may be NaN.
    return torch.where(steps < total[:, None], signal.gather(1, index), 0.0)


@scripted
def _frames(
    x: Tensor,
    lengths: Tensor,
    kept: Tensor,
    pending: Tensor,
    window: int,
    hop: int,
    window_samples: int,
    hop_samples: int,
    window_function: Tensor,
    filters: Tensor,
    mean: Tensor,
    std: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames, their counts and the new `samples` and `pending` (`LogMel.forward`)."""
    rows, capacity, given = x.shape[0], kept.shape[1], x.shape[1]
    features = hop // hop_samples * filters.shape[1]
    signal = torch.cat([kept, x[..., 0].to(kept.dtype)], dim=1)  # (B, capacity + T)
    total = pending + lengths
    counts = torch.where(total < window, 0, (total - window).div(hop, rounding_mode="floor") + 1)
    frames = max(0, (capacity + given - window) // hop + 1)
    last = torch.arange(capacity, device=x.device).expand(rows, capacity) + lengths[:, None]
    new_samples, new_pending = signal.gather(1, last), total - counts * hop
    if frames == 0:
        return signal.new_zeros([rows, 0, features]), counts, new_samples, new_pending
    unused = _unused(signal, capacity - pending, total, (frames - 1) * hop + window)
    mel = (_log_mel(unused, window_samples, hop_samples, window_function, filters) - mean) / std
    stacked = mel.reshape(rows, frames, features)
    valid = torch.arange(frames, device=x.device) < counts[:, None]
    return torch.where(valid[..., None], stacked, 0.0), counts, new_samples, new_pending
