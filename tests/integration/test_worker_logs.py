"""The worker over real logs and with others: states move with their partitions, and a killed process goes on."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from streamer.codecs.messages import Prediction, StreamEvent
from streamer.errors import StateMismatch
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of

PARTITIONS = 4
SERVE_FOR_EVER = """
import asyncio, sys
from streamer.log.sqlite import SqliteLog
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving

async def main():
    async with SqliteLog(sys.argv[1]) as log:
        await Serving(log, RunningSum).worker().run()

asyncio.run(main())
"""


async def sums(bench: Serving) -> dict[str, float]:
    return {
        m.id: m.body.outputs["y"][0] for m in await bench.said() if isinstance(m.body, Prediction) and m.body.outputs
    }


async def feed_all(bench: Serving, value: int) -> None:
    for partition in range(PARTITIONS):
        await bench.feed([event(f"s{partition}", value)], partition)


async def test_partitions_move_with_their_states_when_a_worker_joins_and_leaves() -> None:
    bench = Serving(MemoryLog(), RunningSum, options_of(PARTITIONS))
    await bench.create_topics()
    async with bench.running() as first:
        await feed_all(bench, 1)
        await bench.until(first, lambda: first.status().records == PARTITIONS)
        async with bench.running() as second:
            await bench.until(second, lambda: (first.status().partitions, second.status().partitions) == (2, 2))
            await feed_all(bench, 2)
            await bench.until(second, lambda: first.status().records + second.status().records == 2 * PARTITIONS)
            assert second.status().records == PARTITIONS // 2
        await bench.until(first, lambda: first.status().partitions == PARTITIONS)
        await feed_all(bench, 4)
        await bench.until(first, lambda: first.status().records == 2 * PARTITIONS + PARTITIONS // 2)
    told = await sums(bench)
    assert told == {f"input/{p}/{o}/prediction/0": y for p in range(PARTITIONS) for o, y in enumerate((1.0, 3.0, 7.0))}
    started = [m.id for m in await bench.said() if isinstance(m.body, StreamEvent) and m.body.event == "started"]
    assert len(started) == PARTITIONS


async def test_saved_states_of_another_model_are_refused_or_reset_as_declared() -> None:
    log = MemoryLog()
    before = Serving(log, RunningSum)
    await before.create_topics()
    async with before.running() as worker:
        await before.feed([event("a", 1)])
        await before.until(worker, lambda: worker.status().records == 1)
    after = Serving(log, RunningSum, version="2")
    await after.feed([event("a", 2)])
    with pytest.raises(StateMismatch, match="on_state_mismatch: reset"):
        await after.serve()
    reset = Serving(log, RunningSum, options_of(on_state_mismatch="reset"), version="2")
    await reset.serve()
    assert await sums(reset) == {"input/0/0/prediction/0": 1.0, "input/0/1/prediction/0": 2.0}


async def test_a_killed_process_goes_on_from_its_file_as_if_it_had_not_been(tmp_path: Path) -> None:
    """SIGKILL as soon as something was published; the input goes on coming."""
    path, half = tmp_path / "log.db", 500
    async with SqliteLog(path) as log:
        bench = Serving(log, RunningSum)
        await bench.create_topics()
        await bench.feed([event(f"s{n % 7}", 1) for n in range(half)])
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVE_FOR_EVER, str(path))
        try:
            while not await bench.records("predictions"):
                await asyncio.wait_for(bench.until_published("predictions"), 60)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await bench.feed([event(f"s{n % 7}", 1) for n in range(half, 2 * half)])
        await asyncio.wait_for(bench.serve(), 60)
        told = await sums(bench)
    assert told == {f"input/0/{n}/prediction/0": n // 7 + 1.0 for n in range(2 * half)}
