"""The expected recovery time: what it grows with, and that it learns from restores of this place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.log.memory import MemoryLog
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event
from streamer.worker.recovery import BYTE_MS, FIXED_MS, RECORD_MS, STATE_MS, Recovery

MANY, SIZE = 10_000, 1_000
USUAL_MS = MANY * STATE_MS + MANY * SIZE * BYTE_MS


def expected(recovery: Recovery, states: int = MANY, rerun: int = 0, records: int = 0, step_ms: float = 0) -> float:
    return recovery.expected_ms(states=states, state_bytes=SIZE, rerun=rerun, records=records, step_ms=step_ms)


def test_before_anything_was_measured_the_benchs_figures_count() -> None:
    assert expected(Recovery()) == pytest.approx(FIXED_MS + USUAL_MS)
    assert expected(Recovery(), rerun=100) == pytest.approx(FIXED_MS + USUAL_MS + 100 * RECORD_MS)


def test_the_last_restore_tells_how_long_one_of_the_same_size_takes() -> None:
    recovery = Recovery()
    recovery.restored(10, 10.5, MANY, MANY * SIZE)
    assert expected(recovery) == pytest.approx(500)
    recovery.restored(20, 20.1, MANY, MANY * SIZE)
    assert expected(recovery) == pytest.approx(100)
    assert expected(recovery, 2 * MANY) == pytest.approx(150)


def test_partitions_that_were_restored_at_the_same_time_count_as_one_restore() -> None:
    together = Recovery()
    for began_s, ended_s in ((10.0, 10.3), (10.1, 10.5), (10.2, 10.4)):
        together.restored(began_s, ended_s, MANY // 3, MANY * SIZE // 3)
    assert expected(together) == pytest.approx(500, rel=0.01)


@given(st.floats(0, 100))
def test_a_restore_of_next_to_nothing_tells_nothing(took_s: float) -> None:
    recovery = Recovery()
    recovery.restored(10, 10 + took_s, 3, 3_000)
    assert expected(recovery) == expected(Recovery())


def test_records_between_the_floor_and_what_is_committed_are_stepped_again_at_the_pace_of_all_before() -> None:
    assert expected(Recovery(), 0, rerun=50, records=1_000, step_ms=200) == pytest.approx(FIXED_MS + 10)


async def test_a_worker_says_what_it_expects() -> None:
    async with MemoryLog() as log:
        bench = Serving(log, RunningSum)
        await bench.create_topics()
        await bench.feed([event(f"s{n}", n) for n in range(50)])
        async with bench.running() as worker:
            gauge = worker.metrics.gauge("streamer_expected_recovery_ms", pipeline=worker.name)
            await bench.until(worker, lambda: worker.status().records == 50 and gauge.value > 0)
            assert FIXED_MS < gauge.value < 10 * FIXED_MS
