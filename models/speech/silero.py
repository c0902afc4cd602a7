"""Silero VAD v6.2 at 16 kHz as a streaming model: one speech probability for every 512 samples (32 ms).

    64 samples of context + 512 new -> STFT by convolution (129 magnitudes x 4) -> 4 convolutions -> LSTM cell (128)
    -> ReLU -> 1 -> sigmoid

The network is that of https://github.com/snakers4/silero-vad (MIT); its parameters carry the names of upstream's
`tinygrad_model.py`, so that published tensors fit as they are. The context, the samples that do not fill a frame yet,
and the LSTM's h and c are all state. This module does not decide what is speech: that is a task's threshold.

Shape legend: B rows, T samples of the longest row, F frames of 512 samples of the longest row, H = 128.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.contract import Outputs, Signature, State

RATE_HZ = 16_000
FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
HIDDEN = 128
_PENDING = FRAME_SAMPLES - 1  # the most samples that can wait for their frame to fill
_BINS = 129


class SileroVad(nn.Module):
    """Speech probability of 32 ms frames of 16 kHz mono audio; a StreamModel.

    State leaves: "h", "c" (B, 128); "context" (B, 64), the samples before the next frame; "pending" (B, 511), the
    samples of a frame that is not full yet, left-aligned; "pending_samples" (B,) int64, how many of them are valid.
    Outputs: "probability" (B, F) in [0, 1] and "lengths" (B,), with F = (511 + T) // 512 whatever the state, so that
    the shape never depends on device values. Frames beyond a row's length are zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.final_conv = nn.Conv1d(HIDDEN, 1, 1)

    @property
    def signature(self) -> Signature:
        """16 kHz mono; a frame is given when its 512 samples are there."""
        return Signature(
            input="audio",
            rate_hz=RATE_HZ,
            channels=1,
            chunk_samples=FRAME_SAMPLES,
            samples_per_frame=FRAME_SAMPLES,
            latency_samples=FRAME_SAMPLES,
            outputs=("probability",),
        )

    def init_state(self, batch: int) -> State:
        """Zeros: silence before the first sample, as upstream starts."""
        zeros = self.stft_conv.weight.new_zeros
        return {
            "h": zeros(batch, HIDDEN),
            "c": zeros(batch, HIDDEN),
            "context": zeros(batch, CONTEXT_SAMPLES),
            "pending": zeros(batch, _PENDING),
            "pending_samples": torch.zeros(batch, dtype=torch.int64, device=self.stft_conv.weight.device),
        }

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """Advance every row by its own samples.

        x: (B, T, 1) in [-1, 1]; lengths: (B,) int64 with 0 <= lengths <= T. Raises ValueError for other channels.
        """
        if x.dim() != 3 or x.shape[2] != 1:
            raise ValueError(f"x must be (B, T, 1), got {tuple(x.shape)}")
        signal, total = _joined(x[:, :, 0], lengths, state)  # (B, 64 + 511 + T)
        frames = total // FRAME_SAMPLES  # (B,)
        features = self._encode(signal)  # (B, F, H)
        probability, h, c = self._recur(features, frames, state["h"], state["c"])
        after = frames * FRAME_SAMPLES  # where the next frame's context begins in `signal`
        new_state = {
            "h": h,
            "c": c,
            "context": _cut(signal, after, CONTEXT_SAMPLES),
            "pending": _cut(signal, after + CONTEXT_SAMPLES, _PENDING),
            "pending_samples": total - after,
        }
        return {"probability": probability, "lengths": frames}, new_state

    def _encode(self, signal: Tensor) -> Tensor:
        """(B, 64 + 511 + T) -> (B, F, H): every frame with its context, on its own."""
        batch = signal.shape[0]
        count = (signal.shape[1] - CONTEXT_SAMPLES) // FRAME_SAMPLES
        if count == 0 or batch == 0:
            return signal.new_zeros(batch, count, HIDDEN)
        width = CONTEXT_SAMPLES + FRAME_SAMPLES
        frames = signal.unfold(1, width, FRAME_SAMPLES).reshape(batch * count, 1, width)
        spectrum = self.stft_conv(functional.pad(frames, (0, 64), mode="reflect"))  # (B F, 258, 4)
        y = (spectrum[:, :_BINS].square() + spectrum[:, _BINS:].square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            y = functional.relu(convolution(y))
        encoded: Tensor = y.reshape(batch, count, HIDDEN)
        return encoded

    def _recur(self, features: Tensor, frames: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The LSTM over the frames a row really has: (B, F) probabilities, h (B, H), c (B, H)."""
        h, c = h.clone(), c.clone()
        given: list[Tensor] = []
        for index in range(features.shape[1]):
            live = (index < frames).unsqueeze(1)  # (B, 1)
            next_h, next_c = self.lstm_cell(features[:, index], (h, c))
            logit = self.final_conv(functional.relu(next_h).unsqueeze(2))[:, 0]  # (B, 1)
            given.append(torch.where(live, torch.sigmoid(logit), 0.0))
            h, c = torch.where(live, next_h, h), torch.where(live, next_c, c)
        return torch.cat(given, dim=1) if given else features.new_zeros(features.shape[:2]), h, c


def _joined(x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Context, waiting samples and new samples of every row without a hole: (B, 64 + 511 + T), and the samples (B,)
    after the context that are valid. What lies beyond them is zero, whatever the padding of `x` was."""
    waiting = state["pending_samples"]
    total = waiting + lengths  # (B,)
    place = torch.arange(_PENDING + x.shape[1], device=x.device).unsqueeze(0)  # (1, 511 + T)
    skip = _PENDING - waiting.unsqueeze(1)  # (B, 1): the unused end of `pending`
    source = torch.where(place < waiting.unsqueeze(1), place, place + skip).clamp(max=place.shape[1] - 1)
    samples = torch.cat([state["pending"], x], dim=1).gather(1, source)
    samples = torch.where(place < total.unsqueeze(1), samples, 0.0)
    return torch.cat([state["context"], samples], dim=1), total


def _cut(signal: Tensor, start: Tensor, width: int) -> Tensor:
    """`width` samples of each row from its own `start` (B,), zeros past the end: (B, width)."""
    place = start.unsqueeze(1) + torch.arange(width, device=signal.device).unsqueeze(0)
    taken = signal.gather(1, place.clamp(max=signal.shape[1] - 1))
    return torch.where(place < signal.shape[1], taken, 0.0)
