"""Functions of many small torch operations that let go of Python's lock once, not at each operation.

Every operation that Python calls gives the lock away and waits for it again, behind all other threads that want it.
Beside a busy event loop a step of nine LSTM cells lasted 99 ms for 3 (docs/log.md). torch's interpreter runs the same
operations, with the same bits, in one call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def scripted(function: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """The function for inference on a CPU as TorchScript; as it is with gradients and on other devices.

    There torch would merge operations into kernels of its own, with other bits, and a graph is captured without it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch names nothing else that needs no C++ compiler
        script: Callable[Concatenate[Tensor, P], R] = torch.jit.script(function)

    @wraps(function)
    def run(first: Tensor, /, *others: P.args, **named: P.kwargs) -> R:
        plain = torch.is_grad_enabled() or first.device.type != "cpu"
        return (function if plain else script)(first, *others, **named)

    return run
