"""The slot pool and who lies in it: nothing leaks, nothing is lost, cold streams come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.contract import State
from streamer.testing.models import RunningSum, TinyGru
from streamer.worker.residence import Residence
from streamer.worker.slots import SlotPool
from streamer.worker.stream import Stream

CPU = torch.device("cpu")


def pool_of(capacity: int = 4) -> SlotPool:
    return SlotPool(RunningSum(), capacity, CPU)


def slots(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def value(number: float) -> dict[str, np.ndarray]:
    return {"sum": np.array([number], np.float32)}


def stream(name: str) -> Stream:
    return Stream(id=name, key=None, partition=0, first_offset=0, started_ms=0, task=None)


def slot_of(held: Stream) -> int:
    assert held.slot is not None
    return held.slot


def test_every_slot_is_taken_once_and_then_there_is_none() -> None:
    pool = pool_of(3)
    assert sorted(pool.take() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(IndexError):
        pool.take()


def test_a_slot_given_back_is_fresh_for_its_next_owner() -> None:
    pool = pool_of(1)
    pool.write(slots(pool.take()), [value(7)])
    pool.give_back(slots(0))
    assert pool.read(slots(pool.take()))[0]["sum"] == 0


def test_only_rows_that_are_ok_are_written_back() -> None:
    pool = pool_of()
    pool.write(slots(0, 1), [value(1), value(2)])
    new: State = {"sum": torch.tensor([[10.0], [20.0]])}
    pool.scatter(torch.tensor([0, 1]), new, torch.tensor([True, False]))
    assert [float(s["sum"][0]) for s in pool.read(slots(0, 1))] == [10, 2]


def test_what_was_gathered_is_a_copy() -> None:
    pool = pool_of()
    pool.gather(torch.tensor([0]))["sum"].fill_(9)
    assert pool.read(slots(0))[0]["sum"] == 0


def test_bf16_leaves_travel_bit_for_bit() -> None:
    class Half(RunningSum):
        def init_state(self, batch: int) -> State:
            return {"sum": torch.full((batch, 1), 1.7, dtype=torch.bfloat16)}

    pool = SlotPool(Half(), 2, CPU)
    states = pool.read(slots(0))
    assert pool.layout() == {"sum": ("int16", (1,))}
    pool.write(slots(1), list(states))
    assert np.array_equal(pool.read(slots(1))[0]["sum"], states[0]["sum"])


def test_a_pool_takes_the_bytes_of_its_states_and_of_one_more() -> None:
    assert SlotPool(TinyGru(), 9, CPU).nbytes == 10 * 3 * 64 * 4


def test_the_coldest_stream_makes_room_and_comes_back_as_it_was() -> None:
    residence: Residence[str] = Residence(pool_of(2))
    a, b, c = (stream(name) for name in "abc")
    residence.bring([("a", a), ("b", b)])
    residence.pool.write(slots(slot_of(a)), [value(5)])
    residence.bring([("b", b)])
    residence.bring([("c", c), ("b", b)])
    assert a.slot is None
    assert residence.spilled_bytes == 4
    residence.bring([("a", a)])
    assert residence.pool.read(slots(slot_of(a)))[0]["sum"] == 5


def test_a_stream_that_leaves_takes_neither_slot_nor_host_memory() -> None:
    residence: Residence[str] = Residence(pool_of(1))
    a, b = stream("a"), stream("b")
    residence.bring([("a", a)])
    residence.bring([("b", b)])
    residence.leave("a", a)
    residence.leave("b", b)
    assert (residence.spilled_bytes, residence.pool.free, len(residence)) == (0, 1, 0)


def test_states_are_read_where_they_are_and_a_fresh_one_is_none() -> None:
    residence: Residence[str] = Residence(pool_of(1))
    a, b = stream("a"), stream("b")
    residence.bring([("a", a)])
    residence.bring([("b", b)])
    spilled, resident, fresh = residence.states([a, b, stream("c")])
    assert spilled is not None
    assert resident is not None
    assert fresh is None
