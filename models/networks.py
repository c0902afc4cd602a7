"""Networks that the literature names, built from torch's recurrent layers with their states explicit.

Shape legend: B rows, F frames, S source tokens, T target tokens, L layers, H hidden units, V symbols.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Carried(NamedTuple):
    """h and c of an LSTM's layers, (L, B, H) each: a batch's last are the next batch's first."""

    h: Tensor
    c: Tensor

    def detached(self) -> Carried:
        """The same numbers without their history: truncated back-propagation ends here."""
        return Carried(self.h.detach(), self.c.detach())


class LanguageModel(nn.Module):
    """Embedding, LSTM, logits of the next symbol after the last step.

    T. Mikolov et al., Recurrent Neural Network Based Language Model, 2010, with the LSTM of M. Sundermeyer et al., LSTM
    Neural Networks for Language Modeling, 2012.
    """

    def __init__(self, symbols: int, embedding: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.rnn = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.symbols = nn.Linear(hidden, symbols)

    def initial(self, rows: int) -> Carried:
        """Zeros: nothing was read."""
        like = self.symbols.weight
        zeros = like.new_zeros(self.rnn.num_layers, rows, self.rnn.hidden_size)
        return Carried(zeros, zeros)

    def forward(self, text: Tensor, before: Carried) -> tuple[Tensor, Carried]:
        """text: (B, F) int64. Returns logits (B, V) after the last step and what the next batch begins with."""
        out, after = self.all_steps(text, before)
        return out[:, -1], after

    def all_steps(self, text: Tensor, before: Carried) -> tuple[Tensor, Carried]:
        """Logits after every step, (B, F, V): what training predicts."""
        out, (h, c) = self.rnn(self.embedding(text), (before.h, before.c))
        return self.symbols(out), Carried(h, c)


class EncoderDecoder(nn.Module):
    """An LSTM reads the source, its last state is the first of another, which writes the target.

    I. Sutskever et al., Sequence to Sequence Learning with Neural Networks, 2014. inputs: width of an embedding.
    """

    def __init__(self, sources: int, targets: int, inputs: int = 300, hidden: int = 512, layers: int = 4) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(sources, inputs), nn.Embedding(targets, inputs)
        self.encoder = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.decoder = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.symbols = nn.Linear(hidden, targets)

    def read(self, source: Tensor, lengths: Tensor) -> Carried:
        """source: (B, S) int64; lengths: (B,) int64, at least 1. The state behind each row's own last token."""
        embedded = self.source(source)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, c) = self.encoder(packed)
        return Carried(h, c)

    def write(self, target: Tensor, before: Carried) -> tuple[Tensor, Carried]:
        """target: (B, T) int64, the tokens so far. Returns logits of each one's next (B, T, V) and the state."""
        out, (h, c) = self.decoder(self.target(target), (before.h, before.c))
        return self.symbols(out), Carried(h, c)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits (B, T, V) with the target given (teacher forcing)."""
        logits, _ = self.write(target, self.read(source, lengths))
        return logits


class Recognizer(nn.Module):
    """Filter banks, a bidirectional LSTM stack, a narrow linear layer, an LSTM stack, classes: one for each frame.

    A. Graves et al., Speech Recognition with Deep Recurrent Neural Networks, 2013, for the bidirectional stack. It
    needs the whole sequence; what is served live is in `models.speech`.
    """

    def __init__(
        self,
        classes: int,
        inputs: int = 40,
        both_ways: int = 256,
        both_layers: int = 5,
        narrow: int = 128,
        layers: int = 3,
    ) -> None:
        super().__init__()
        self.both = nn.LSTM(inputs, both_ways, both_layers, batch_first=True, bidirectional=True)
        self.narrow = nn.Linear(2 * both_ways, narrow)
        self.onward = nn.LSTM(narrow, narrow, layers, batch_first=True)
        self.classes = nn.Linear(narrow, classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """frames: (B, F, I); lengths: (B,) int64, at least 1. Logits (B, F, classes), zeros in the padding."""
        packed = nn.utils.rnn.pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.both(packed)[0], batch_first=True, total_length=frames.shape[1])
        out, _ = self.onward(self.narrow(out))
        live = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        return torch.where(live[..., None], self.classes(out), 0.0)


def lstm_100_128() -> nn.LSTM:
    """Three layers of 128 over 100 inputs."""
    return nn.LSTM(100, 128, 3, batch_first=True)


def gru_100_128() -> nn.GRU:
    """Three layers of 128 over 100 inputs."""
    return nn.GRU(100, 128, 3, batch_first=True)


def blstm_100_128() -> nn.LSTM:
    """Three layers of 128 each way over 100 inputs."""
    return nn.LSTM(100, 128, 3, batch_first=True, bidirectional=True)


class GruForecaster(nn.Module):
    """GRU 10 -> 3 x 64 -> 1: the next value after every event."""

    def __init__(self, columns: int = 10, hidden: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.rnn = nn.GRU(columns, hidden, layers, batch_first=True)
        self.value = nn.Linear(hidden, 1)

    def forward(self, events: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """events: (B, F, columns); before: (L, B, H). Returns (B, F) and the state behind the last event."""
        out, after = self.rnn(events, before)
        return self.value(out)[..., 0], after
