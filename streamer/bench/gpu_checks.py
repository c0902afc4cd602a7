"""What the engine promises, as checks that need torch alone: pytest runs them, and `make gpu` runs them on CUDA.

Each takes the device and a recorder (None: the device's own, CUDA graphs on a GPU), and raises AssertionError with
what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.bench.networks import W1_FEATURES, FeatureLstm
from streamer.options import EngineOptions
from streamer.worker.engine import Engine
from streamer.worker.graphs import Recorder

Check = Callable[[str, Recorder | None], None]
Chunk = NDArray[np.float32]
TOLERANCE = 1e-5


def small_engine(device: str, recorder: Recorder | None, *, deterministic: bool = False, max_batch: int = 8) -> Engine:
    """An engine over a small W1 network with weights of seed 0."""
    torch.manual_seed(0)
    model = FeatureLstm(hidden=32, layers=2)
    options = EngineOptions(device=device, max_batch=max_batch, slots=4 * max_batch, deterministic=deterministic)
    return Engine(model, options, recorder=recorder)


def chunk(seed: int, steps: int = 3) -> Chunk:
    return np.random.default_rng(seed).standard_normal((steps, W1_FEATURES), dtype=np.float32)


def outputs_of(
    engine: Engine, slot: int, chunks: Sequence[Chunk], company: Sequence[int] = (), place: int = 0
) -> Chunk:
    """What a stream in `slot` gets for its chunks while other slots step beside it; (F, H)."""
    got = []
    for number, own in enumerate(chunks):
        slots, batch = list(company), [chunk(1_000 + number * 50 + s) for s in company]
        slots.insert(place, slot)
        batch.insert(place, own)
        result = engine.step(np.array(slots, np.int64), batch)
        got.append(np.array(result.outputs["y"][place, : result.lengths[place]]))
    return np.concatenate(got)


def chunking_does_not_matter(device: str, recorder: Recorder | None = None) -> None:
    """Nine steps at once, by threes and one by one give the same outputs."""
    signal = chunk(1, 9)
    engine = small_engine(device, recorder)
    whole = outputs_of(engine, 0, [signal])
    for slot, size in ((1, 3), (2, 1), (3, 4)):
        cut = outputs_of(engine, slot, [signal[i : i + size] for i in range(0, 9, size)])
        assert cut.shape == whole.shape, f"{cut.shape} for {whole.shape}"
        assert np.abs(cut - whole).max() <= TOLERANCE, f"chunks of {size} differ by {np.abs(cut - whole).max()}"


def company_does_not_matter(device: str, recorder: Recorder | None = None) -> None:
    """Alone, among others, first or last in the batch: the same outputs."""
    chunks = [chunk(i) for i in range(3)]
    alone = outputs_of(small_engine(device, recorder), 5, chunks)
    for company, place in (([1], 1), ([1, 2, 3, 4, 6, 7, 8], 0), ([1, 2, 3, 4, 6, 7, 8], 7)):
        among = outputs_of(small_engine(device, recorder), 5, chunks, company, place)
        assert np.abs(among - alone).max() <= TOLERANCE, f"{len(company)} neighbours: {np.abs(among - alone).max()}"


def deterministic_rows_are_equal_bit_for_bit(device: str, recorder: Recorder | None = None) -> None:
    """In deterministic mode a row's bits change with neither its position nor its neighbours."""
    chunks = [chunk(i) for i in range(3)]
    alone = outputs_of(small_engine(device, recorder, deterministic=True), 5, chunks)
    for company, place in (([1], 1), ([1, 2, 3], 2), ([1, 2, 3, 4, 6, 7, 8], 0), ([1, 2, 3, 4, 6, 7, 8], 7)):
        among = outputs_of(small_engine(device, recorder, deterministic=True), 5, chunks, company, place)
        assert np.array_equal(among, alone), f"place {place} of {1 + len(company)}: {np.abs(among - alone).max()}"


def a_bad_row_keeps_its_state_and_harms_nobody(device: str, recorder: Recorder | None = None) -> None:
    """NaN in one row: it is reported and keeps its state; its neighbour goes on as if it had been alone."""
    engine, clean = small_engine(device, recorder), small_engine(device, recorder)
    slots = np.array([0, 1], np.int64)
    for one in (engine, clean):
        one.step(slots, [chunk(1), chunk(2)])
    before = engine.pool.read(slots[:1])[0]
    poisoned = engine.step(slots, [np.full_like(chunk(3), np.nan), chunk(4)])
    wanted = clean.step(slots, [chunk(3), chunk(4)])
    assert list(poisoned.failed) == [0], f"failed rows {poisoned.failed}"
    after = engine.pool.read(slots[:1])[0]
    assert all(np.array_equal(before[name], after[name]) for name in before), "the bad row's state was written"
    assert np.abs(poisoned.outputs["y"][1] - wanted.outputs["y"][1]).max() <= TOLERANCE, "the neighbour changed"
    healed = engine.step(slots, [chunk(3), chunk(5)])
    assert not healed.failed, "what was wrong in one step stays wrong in the next"
    assert np.abs(healed.outputs["y"][0] - wanted.outputs["y"][0]).max() <= TOLERANCE, "the bad row did not go on"


def a_reused_slot_shows_nothing(device: str, recorder: Recorder | None = None) -> None:
    """A slot given back and taken again starts fresh."""
    engine = small_engine(device, recorder)
    fresh = outputs_of(engine, 3, [chunk(1)])
    outputs_of(engine, 3, [chunk(i) for i in range(4)])
    engine.pool.give_back(np.array([3], np.int64))
    assert np.array_equal(outputs_of(engine, 3, [chunk(1)]), fresh), "the slot remembers"


def a_state_comes_back_bit_for_bit(device: str, recorder: Recorder | None = None) -> None:
    """Read to the host, written into another slot: the stream goes on with the same bits."""
    engine = small_engine(device, recorder, deterministic=True)
    outputs_of(engine, 0, [chunk(1), chunk(2)])
    states = engine.pool.read(np.array([0], np.int64))
    engine.pool.write(np.array([9], np.int64), list(states))
    again = engine.pool.read(np.array([9], np.int64))[0]
    assert all(np.array_equal(states[0][name], again[name]) for name in again), "bits changed on the way"
    assert np.array_equal(outputs_of(engine, 0, [chunk(3)]), outputs_of(engine, 9, [chunk(3)])), "it went on otherwise"


def a_batch_larger_than_the_engine_is_split(device: str, recorder: Recorder | None = None) -> None:
    """Rows beyond `max_batch` are stepped in a second call."""
    engine = small_engine(device, recorder, max_batch=4)
    slots = np.arange(10)
    result = engine.step(slots, [chunk(i) for i in range(10)])
    alone = outputs_of(small_engine(device, recorder), 9, [chunk(9)])
    assert result.outputs["y"].shape[0] == 10, f"{result.outputs['y'].shape}"
    assert np.abs(result.outputs["y"][9] - alone).max() <= TOLERANCE, "the last row differs"


CHECKS: tuple[Check, ...] = (
    chunking_does_not_matter,
    company_does_not_matter,
    deterministic_rows_are_equal_bit_for_bit,
    a_bad_row_keeps_its_state_and_harms_nobody,
    a_reused_slot_shows_nothing,
    a_state_comes_back_bit_for_bit,
    a_batch_larger_than_the_engine_is_split,
)
