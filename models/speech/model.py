"""The speech recognizer's network: log-mel, a unidirectional LSTM stack, character CTC.

It knows samples and labels' scores; what words they spell is the decoder's business.

Shape legend: B rows, T samples, F output frames, V labels (blank, space, a-z, apostrophe).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.contract import Outputs, Signature, State
from models.frontend import LogMel
from models.recurrent import RecurrentStack
from models.speech.text import VOCABULARY

RATE_HZ = 16_000


class CtcLstm(nn.Module):
    """A StreamModel from 16 kHz PCM to CTC log-probabilities, one frame each 30 ms.

    `to(torch.bfloat16)` moves `body` (LSTM and output layer) and leaves `front_end` in float32. All state leaves
    are float32 except the front end's sample count. Source of the shape: A. Graves et al., Connectionist Temporal
    Classification, ICML 2006; stacked frames: H. Sak et al., Fast and Accurate Recurrent Neural Network Acoustic
    Models for Speech Recognition, 2015.
    """

    def __init__(
        self, hidden: int = 512, layers: int = 3, bands: int = 80, stack: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.front_end = LogMel(rate_hz=RATE_HZ, bands=bands, stack=stack)
        self.body = CtcBody(self.front_end.features, hidden, layers, dropout)

    @property
    def signature(self) -> Signature:
        hop, window = self.front_end.hop, self.front_end.window
        return Signature("audio", RATE_HZ, 1, 1_600, hop, window, ("log_probs",))

    def init_state(self, batch: int) -> State:
        """Leaves: samples (B, 719), pending (B,), h and c (B, layers, hidden)."""
        return self.front_end.init_state(batch) | self.body.recurrent.init_state(batch)

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        """x: (B, T, 1) PCM in [-1, 1]; gives log_probs (B, F, V) float32 and lengths (B,) int64."""
        frames, counts, overlap = self.front_end(x, lengths, state)
        log_probs, hidden = self.body(frames, counts, state)
        return {"log_probs": log_probs, "lengths": counts}, overlap | hidden


class CtcBody(nn.Module):
    """The trained part: LSTM stack and output layer, in one type (float32 or bfloat16)."""

    def __init__(self, features: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.recurrent = RecurrentStack(features, hidden, layers, dropout=dropout)
        self.drop = nn.Dropout(dropout)
        self.labels = nn.Linear(hidden, VOCABULARY)

    def forward(self, frames: Tensor, counts: Tensor, state: State) -> tuple[Tensor, State]:
        """frames (B, F, features), counts (B,): log-probabilities (B, F, V) float32 and the new h and c."""
        out, new_state = self.recurrent(frames, counts, state)
        return self.labels(self.drop(out)).float().log_softmax(dim=-1), new_state
