"""The engine: what it promises on every device and path, and how it takes what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.contract import Outputs, State
from streamer.bench import gpu_checks
from streamer.bench.gpu_checks import Check
from streamer.options import EngineOptions
from streamer.testing.models import RunningSum, TinyGru
from streamer.worker.engine import DeviceLost, Engine, finite_rows, lower_precision, pick_device
from streamer.worker.graphs import CallRecorder, Recorder, Stepped

RECORDERS = {"eager": lambda: None, "recorded": CallRecorder}


def sums(**options: object) -> Engine:
    return Engine(RunningSum(), EngineOptions(device="cpu", **{"max_batch": 4, "slots": 8, **options}))  # type: ignore[arg-type]


def events(*values: float) -> list[np.ndarray]:
    return [np.full((1, 1), value, np.float32) for value in values]


@pytest.mark.parametrize("path", RECORDERS)
@pytest.mark.parametrize("check", gpu_checks.CHECKS, ids=lambda check: check.__name__)
def test_the_engine_keeps_its_promises_on_the_cpu(check: Check, path: str) -> None:
    check("cpu", RECORDERS[path]())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", gpu_checks.CHECKS, ids=lambda check: check.__name__)
def test_the_engine_keeps_its_promises_on_a_gpu(check: Check) -> None:
    check("cuda", None)


class Fails(RunningSum):
    """Refuses any batch that holds the value 13, and runs out of memory above two rows when `small`."""

    def __init__(self, small: bool = False, message: str = "13 is refused") -> None:
        super().__init__()
        self.small = small
        self.message = message

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        if self.small and len(x) > 2:
            raise torch.OutOfMemoryError("too many rows")
        if (x == 13).any():
            raise RuntimeError(self.message)
        return super().step(x, lengths, state)


def test_a_row_whose_step_raises_alone_fails_and_its_neighbours_go_on() -> None:
    engine = Engine(Fails(), EngineOptions(device="cpu", max_batch=4, slots=8))
    result = engine.step(np.arange(4), events(1, 13, 3, 4))
    assert list(result.failed) == [1]
    assert "13 is refused" in result.failed[1]
    assert result.outputs["y"][[0, 2, 3], 0, 0].tolist() == [1, 3, 4]
    assert engine.step(np.arange(4), events(1, 1, 1, 1)).outputs["y"][:, 0, 0].tolist() == [2, 1, 4, 5]


def test_running_out_of_memory_makes_the_batch_smaller_for_good() -> None:
    engine = Engine(Fails(small=True), EngineOptions(device="cpu", max_batch=4, slots=8))
    assert engine.step(np.arange(4), events(1, 2, 3, 4)).outputs["y"][:, 0, 0].tolist() == [1, 2, 3, 4]
    assert engine.max_batch == 2


def test_an_error_that_poisons_the_device_is_nobodys_row() -> None:
    engine = Engine(Fails(message="CUDA error: an illegal memory access"), EngineOptions(device="cpu", max_batch=4))
    with pytest.raises(DeviceLost, match="illegal memory access"):
        engine.step(np.arange(2), events(1, 13))


def test_outputs_that_were_handed_out_are_not_written_again_by_the_next_step() -> None:
    engine = Engine(RunningSum(), EngineOptions(device="cpu", max_batch=2), recorder=CallRecorder())
    first = engine.step(np.arange(2), events(1, 2))
    engine.step(np.arange(2), events(5, 5))
    assert first.outputs["y"][:, 0, 0].tolist() == [1, 2]


def test_rows_of_unequal_length_get_their_own_frames_only() -> None:
    result = sums().step(np.arange(2), [np.ones((3, 1), np.float32), np.ones((1, 1), np.float32)])
    assert result.lengths.tolist() == [3, 1]
    assert [result.row(i)["y"][:, 0].tolist() for i in (0, 1)] == [[1, 2, 3], [1]]


class CannotRecord:
    """A recorder for a model that reads values on the host."""

    def record(self, work: object) -> tuple[Stepped, object]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_model_that_cannot_be_recorded_is_stepped_eagerly() -> None:
    recorder: Recorder = CannotRecord()  # type: ignore[assignment]
    engine = Engine(RunningSum(), EngineOptions(device="cpu", max_batch=2), recorder=recorder)
    assert engine.step(np.arange(2), events(1, 2)).outputs["y"][:, 0, 0].tolist() == [1, 2]


def test_a_state_must_be_finite_and_an_output_may_be_infinite_but_no_nan() -> None:
    state = {"h": torch.tensor([[1.0, 2.0], [1.0, torch.inf], [torch.nan, 1.0], [-torch.inf, 1.0], [3e38, 3e38]])}
    outputs = {"y": torch.zeros(5, 1), "lengths": torch.ones(5)}
    assert finite_rows(state, outputs).tolist() == [True, False, False, False, True]
    labels = {"y": torch.tensor([[-torch.inf, 0.0], [torch.nan, 0.0]])}
    assert finite_rows({}, labels).tolist() == [True, False]


def test_a_model_without_floating_leaves_has_no_bad_rows() -> None:
    assert finite_rows({"n": torch.ones(2, 1, dtype=torch.int64)}, {"lengths": torch.ones(2)[:, None] > 0}).all()


def test_an_unknown_device_and_a_missing_gpu_are_named() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpux'"):
        pick_device("tpux")
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_model_that_is_no_module_has_no_bf16_form() -> None:
    with pytest.raises(ValueError, match="RunningSum has no bfloat16 form"):
        lower_precision(RunningSum())


def test_a_model_that_cannot_be_stepped_in_bfloat16_is_refused_at_once_and_not_by_every_record() -> None:
    with pytest.raises(ValueError, match=r"TinyGru cannot be stepped in bfloat16 .* use dtype float32"):
        Engine(TinyGru(channels=2), EngineOptions(device="cpu", dtype="bfloat16"))


def test_the_fixed_shape_is_part_of_what_results_depend_on() -> None:
    assert "batch=4 threads=1" in sums(deterministic=True).numerics()
    assert "batch=any" in sums().numerics()


def test_warming_up_touches_no_stream() -> None:
    engine = Engine(RunningSum(), EngineOptions(device="cpu", max_batch=4, slots=4))
    slot = engine.pool.take()
    engine.step(np.array([slot]), [np.full((1, 1), 3.0, np.float32)])
    engine.warm_up()
    (state,) = engine.pool.read(np.array([slot]))
    assert state["sum"].tolist() == [3.0]
    assert engine.pool.free == 3
