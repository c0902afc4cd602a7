"""What a task is: model outputs in, messages out, with explicit state that is plain data. Pure; no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamer.codecs.base import Samples
from streamer.codecs.messages import Output


class StreamView(Protocol):
    """What a task may know of a stream. `clock_samples` counts model-rate samples since its start, gaps included."""

    @property
    def id(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def first_offset(self) -> int: ...
    @property
    def last_offset(self) -> int: ...
    @property
    def last_ms(self) -> int: ...
    @property
    def started_ms(self) -> int: ...
    @property
    def clock_samples(self) -> int: ...
    @property
    def task(self) -> Any: ...


class TaskBatch(NamedTuple):
    """One step's rows as columns. n rows; `outputs` are (n, F, ...) with `lengths` (n,) valid frames.

    offsets, times_ms: of the records that the rows come from. samples: what was stepped, (T_i, C) each.
    """

    streams: Sequence[StreamView]
    offsets: Sequence[int]
    times_ms: Sequence[int]
    samples: Sequence[Samples]
    outputs: Mapping[str, NDArray[np.generic]]
    lengths: NDArray[np.int64]


class Task(Protocol):
    """Turns outputs into messages. States are immutable values: `advance` returns the next ones.

    independent: its state is always None, what it says of a record depends on that record's frames alone, and none of
    it is a decision: then many records of one stream may stand in one batch, a row each.
    """

    @property
    def independent(self) -> bool: ...

    def initial(self, clock_samples: int) -> Any:
        """The state of a stream that begins (or begins again after a reset) at this point of its clock."""
        ...

    def restart(self, stream: StreamView) -> Any:
        """The state after a reset of the recurrent state: numbering goes on, memory does not."""
        ...

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        """The next state and the messages of every row; a row depends on itself alone."""
        ...

    def finish(self, stream: StreamView) -> list[Output]:
        """What is still to be said of a stream that ends or is reset."""
        ...

    def dump(self, state: Any) -> Any:
        """The state as plain data: numbers, strings, lists, maps, arrays."""
        ...

    def load(self, data: Any) -> Any:
        """The state back, equal to what was dumped. Raises StateMismatch for what `dump` cannot have made."""
        ...


@runtime_checkable
class PlainTask(Task, Protocol):
    """An independent task that says of every row that has frames one prediction, which is nothing but named outputs."""

    def plain(
        self, outputs: Mapping[str, NDArray[np.generic]], lengths: NDArray[np.int64]
    ) -> Mapping[str, NDArray[np.generic]]:
        """What `advance` would say of n rows, all of which have frames: (n, K) by name."""
        ...
