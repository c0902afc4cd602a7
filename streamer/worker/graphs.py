"""Steps recorded once for a shape and replayed: on CUDA the launches of a whole step cost one.

`torch.compile` breaks at LSTMs, so graphs are captured by hand around gather, step, check and scatter, one for each
(rows, longest) that comes again and again; every other shape runs eagerly. A model that cannot be captured (it reads
lengths on the host, say) is served eagerly for ever. Source: CUDA C++ programming guide, CUDA graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from models.contract import Outputs
from streamer.worker.staging import Batch

logger = logging.getLogger(__name__)
WARM_UP_STEPS = 2
"""cuDNN and cuFFT choose their plans in the first steps, which must not happen inside a capture."""


class Stepped(NamedTuple):
    """What the device did. outputs: (B, F, ...), floating ones float32; ok: (B,) bool, rows that were written back."""

    outputs: Outputs
    ok: Tensor


Step = Callable[[Batch], Stepped]


class Recorder(Protocol):
    """Records work on fixed tensors. `record` runs it at least once; the returned call repeats it on the same ones."""

    def record(self, work: Callable[[], Stepped]) -> tuple[Stepped, Callable[[], None]]: ...


class CudaRecorder:
    """CUDA graphs that share one memory pool, so that they must never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Any = None  # torch names the type of a pool's handle only privately

    def record(self, work: Callable[[], Stepped]) -> tuple[Stepped, Callable[[], None]]:
        """Raises RuntimeError for work that waits for the device or does what a graph cannot hold."""
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_STEPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            result = work()
        self._memory = graph.pool()
        return result, graph.replay


class CallRecorder:
    """No graph: `replay` calls the work again and copies what it gave. Proves the fixed-shape path without a GPU."""

    def record(self, work: Callable[[], Stepped]) -> tuple[Stepped, Callable[[], None]]:
        result = work()
        fixed = Stepped({name: leaf.clone() for name, leaf in result.outputs.items()}, result.ok.clone())

        def replay() -> None:
            again = work()
            for name, leaf in again.outputs.items():
                fixed.outputs[name].copy_(leaf)
            fixed.ok.copy_(again.ok)

        return fixed, replay


class Graph:
    """One recorded shape: put a batch into `batch`, `replay`, read `result` before the next replay."""

    def __init__(self, recorder: Recorder, step: Step, batch: Batch) -> None:
        """batch: fixed device tensors; while recording all its rows are empty and nobody's."""
        self.batch = batch
        self.result, self.replay = recorder.record(lambda: step(batch))


class Graphs:
    """The recorded shapes of one model: powers of two rows (and `max_batch`), `longest` samples each."""

    def __init__(
        self, recorder: Recorder, step: Step, fresh: Callable[[int, int], Batch], max_batch: int, longest: int
    ) -> None:
        """fresh: makes fixed device tensors for (rows, longest) whose rows are all empty and nobody's."""
        self._recorder = recorder
        self._step = step
        self._fresh = fresh
        self._max_batch = max_batch
        self._longest = longest
        self._graphs: dict[int, Graph] = {}
        self.usable = True

    def fitting(self, rows: int, longest: int) -> Graph | None:
        """The graph that so many rows of at most `longest` samples fit, recorded the first time; None: step eagerly."""
        if not self.usable or longest != self._longest or rows > self._max_batch:
            return None
        rows = min(1 << (rows - 1).bit_length(), self._max_batch)
        graph = self._graphs.get(rows)
        if graph is None:
            graph = self._record(rows)
        return graph

    def _record(self, rows: int) -> Graph | None:
        try:
            graph = self._graphs[rows] = Graph(self._recorder, self._step, self._fresh(rows, self._longest))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.usable = False
            logger.warning("stepping without CUDA graphs: %s", str(error).partition("\n")[0])
            return None
        return graph
