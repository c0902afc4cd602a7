"""The recognizer computed the plain way, over the whole signal at once: the referee of the streaming path.

It shares no streaming code: torch.stft for the spectrum, one torch.nn.LSTM call for the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.speech.model import CtcLstm


def log_mel_frames(model: CtcLstm, signal: Tensor) -> Tensor:
    """(N,) PCM to normalised, stacked frames (F, S * M)."""
    front = model.front_end
    spectrum = torch.stft(
        torch.nn.functional.pad(signal, (0, front.fft_size - front.window_samples)),
        n_fft=front.fft_size,
        hop_length=front.hop_samples,
        # A window shorter than the FFT would be centred in it: pad it on the right as the front end does.
        window=torch.nn.functional.pad(front.window_function, (0, front.fft_size - front.window_samples)),
        center=False,
        return_complex=True,
    )
    mel = (spectrum.abs().square().T @ front.filters + 1e-6).log()  # (windows, M)
    windows = 1 + (len(signal) - front.window_samples) // front.hop_samples
    mel = (mel[:windows] - front.mean) / front.std
    frames = len(mel) // front.stack
    return mel[: frames * front.stack].reshape(frames, -1)


def log_probs(model: CtcLstm, signal: Tensor) -> Tensor:
    """(N,) PCM in [-1, 1] to CTC log-probabilities (F, V)."""
    frames = log_mel_frames(model, signal)
    out, _ = model.body.recurrent.rnn(frames[None])
    return torch.nn.functional.log_softmax(model.body.labels(out[0]), dim=-1)
