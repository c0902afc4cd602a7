"""An LSTM stack on a CPU, frame by frame, with weights that oneDNN has laid out once.

`nn.LSTM` on a CPU hands its weights to oneDNN as they are, and every call lays them out anew for the kernel: for
3 x 512 units 2 to 4 ms in bf16 and 6 to 15 ms in float32, whatever the batch. Here a layer's input products are one
matrix product over all frames, and each frame adds the recurrent product, as in S. Hochreiter and J. Schmidhuber, Long
Short-Term Memory, 1997, with F. Gers' forget gate: the equations of `torch.nn.LSTM`.

Shape legend: B rows, F frames of the longest row, I input features, L layers, H hidden units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.scripted import scripted

_DTYPES = (torch.float32, torch.bfloat16)


class _Layer(NamedTuple):
    """Weights as oneDNN wants them, opaque to everything else, and the sum of both biases (4H,)."""

    inputs: Tensor
    recurrent: Tensor
    bias: Tensor


class PackedLstm:
    """Runs an `nn.LSTM` for inference. Keeps its packed weights until its weights are others; copies start empty.

    What is written into weights through `.data` or NumPy is not seen: torch counts no version of it.
    """

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self._of: list[tuple[int, int]] = []
        self._held: list[Tensor] = []  # while they are held no other weights can lie at their addresses

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLstm:
        return PackedLstm()

    def __reduce__(self) -> tuple[type[PackedLstm], tuple[()]]:
        return PackedLstm, ()

    @staticmethod
    def fits(rnn: nn.LSTM) -> bool:
        """Whether this LSTM can be run here: a CPU with oneDNN, no gradients wanted, one direction, no projection."""
        weight = rnn.weight_ih_l0
        return (
            weight.device.type == "cpu"
            and weight.dtype in _DTYPES
            and not weight.is_inference()  # nobody could tell when it changes
            and not torch.is_grad_enabled()
            and not (rnn.training and rnn.dropout)
            and not (rnn.bidirectional or rnn.proj_size)
            and rnn.bias
            and torch.backends.mkldnn.is_available()
        )

    def run(self, rnn: nn.LSTM, x: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, F, I) in the weights' type; lengths: (B,) int64; h, c: (B, L, H) float32.

        Returns the last layer's output (B, F, H), zeros in the padding, and the new h and c; a row's state advances by
        its own frames. c is float32 throughout, h has the weights' type: that of a frame in the middle of a chunk is
        rounded like that at its end.
        """
        layers = self._packed(rnn)
        return _run_stack(
            x,
            lengths,
            h,
            c,
            [layer.inputs for layer in layers],
            [layer.recurrent for layer in layers],
            [layer.bias for layer in layers],
        )

    def _packed(self, rnn: nn.LSTM) -> list[_Layer]:
        weights = [getattr(rnn, name) for names in rnn._all_weights for name in names]
        of = [(weight.data_ptr(), weight._version) for weight in weights]
        if of != self._of:
            self._layers = [_pack(*weights[start : start + 4]) for start in range(0, len(weights), 4)]
            self._of, self._held = of, [weight.detach() for weight in weights]
        return self._layers


def _pack(inputs: Tensor, recurrent: Tensor, input_bias: Tensor, recurrent_bias: Tensor) -> _Layer:
    pack = torch.ops.mkldnn._reorder_linear_weight
    return _Layer(pack(inputs.detach()), pack(recurrent.detach()), (input_bias + recurrent_bias).detach())


@scripted
def _run_stack(
    x: Tensor,
    lengths: Tensor,
    h: Tensor,
    c: Tensor,
    inputs: list[Tensor],
    recurrent: list[Tensor],
    biases: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """All layers over all frames, with the packed weights of each (`PackedLstm.run`)."""
    rows, frames = x.shape[0], x.shape[1]
    hidden = h.shape[2]
    live: list[Tensor] = []
    if bool((lengths < frames).any()):  # the rows that have a frame, (B, 1); none where all rows have all frames
        live = [(lengths > frame).unsqueeze(1) for frame in range(frames)]
    new_h: list[Tensor] = []
    new_c: list[Tensor] = []
    for number in range(len(inputs)):
        row_h, row_c = h[:, number].to(x.dtype), c[:, number]
        flat = x.reshape(rows * frames, x.shape[2])
        gates = torch.ops.mkldnn._linear_pointwise(flat, inputs[number], biases[number], "none", [], "")
        gates = gates.view(rows, frames, 4 * hidden)
        out = x.new_empty([rows, frames, hidden])
        for frame in range(frames):
            both = torch.ops.mkldnn._linear_pointwise(row_h, gates[:, frame], recurrent[number], None, "add").float()
            i, f = both[:, : 2 * hidden].sigmoid_().chunk(2, dim=1)
            g, o = both[:, 2 * hidden :].chunk(2, dim=1)
            stepped = torch.addcmul(g.tanh_().mul_(i), f, row_c)
            spoken = stepped.tanh().mul_(o.sigmoid_()).to(x.dtype)
            if len(live) > 0:
                stepped, spoken = torch.where(live[frame], stepped, row_c), torch.where(live[frame], spoken, row_h)
            row_c, row_h = stepped, spoken
            out[:, frame] = row_h
        x = out
        new_h.append(row_h.float())
        new_c.append(row_c)
    if len(live) > 0:
        x = torch.where(torch.stack(live, 1), x, torch.zeros_like(x))
    return x, torch.stack(new_h, 1), torch.stack(new_c, 1)
