"""Python compiled to machine code: the only module that speaks to numba.

Importing it needs numba, so import it lazily: who never searches a beam needs none.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

types: Any = numba.types
"""What signatures are made of; its own annotations leave gaps."""

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",  # no exception leaves compiled code: 1 / 0 is infinite
    "_nrt": False,  # no reference counting: arrays belong to the caller and none is made; twice as fast
}
# Never fastmath: sums keep their order.


def inlined(function: F) -> F:
    """A part of a compiled function; compiled with it, and called from there alone."""
    part: F = numba.njit(**_OPTIONS)(function)
    return part


def compiled(signature: Any) -> Callable[[F], F]:
    """Compile at once for one signature, the GIL released while it runs.

    The machine code is kept beside the source or in the user's cache folder, under the source file's hash: keep what
    a function calls in its file. Where no such place can be written, or what lies there is damaged, nothing is kept.
    """

    def compile_now(function: F) -> F:
        try:
            done: F = numba.njit(signature, cache=True, **_OPTIONS)(function)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
            done = numba.njit(signature, **_OPTIONS)(function)
        return done

    return compile_now
