"""Promise 6: one bad row harms no other; what cannot be mended here ends the worker uncommitted."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from models.contract import StreamModel
from streamer.codecs.messages import DeadLetter, Envelope, Prediction, StreamEvent
from streamer.log.base import TopicSpec
from streamer.log.memory import MemoryLog
from streamer.options import EngineOptions, OutputOptions
from streamer.records import NewRecord, TopicPartition
from streamer.testing.faults import BAD, Gate, Held, NanOnBad, RaisesOnBad, SmallMemory
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of
from streamer.worker.engine import DeviceLost

CALL = EngineOptions(max_batch=8, slots=16, device="cpu")


async def served(model: StreamModel, records: list[NewRecord]) -> list[Envelope]:
    bench = Serving(MemoryLog(), lambda: model, options_of(engine=CALL))
    await bench.create_topics()
    await bench.feed(records)
    await bench.serve()
    return await bench.said()


def answers(said: list[Envelope]) -> dict[str, float]:
    return {m.id: m.body.outputs["y"][0] for m in said if isinstance(m.body, Prediction) and m.body.outputs}


BATCH = [event(name, value) for value in (1.0, BAD, 2.0) for name in "abcd"]
"""Every stream meets the bad value once, all in one batch."""
ONE_BAD = [r for n, r in enumerate(BATCH) if n not in (4, 6, 7)]
"""Only b (offset 4 here) meets it."""


@pytest.mark.parametrize("model", [NanOnBad(), RaisesOnBad()], ids=["gives NaN", "raises"])
async def test_a_row_that_goes_wrong_is_reset_and_its_neighbours_do_not_notice(model: StreamModel) -> None:
    said = await served(model, ONE_BAD)
    without = await served(RunningSum(), ONE_BAD)
    bad, after = "input/0/4/prediction/0", "input/0/6/prediction/0"
    got, whole = answers(said), answers(without)
    assert bad not in got
    assert got[after] == 2.0  # began afresh
    assert {i: y for i, y in got.items() if i != after} == {i: y for i, y in whole.items() if i not in (bad, after)}
    assert [m.id for m in said if isinstance(m.body, StreamEvent) and m.body.event == "reset"] == ["input/0/4/reset/1"]
    assert [m.body.offset for m in said if isinstance(m.body, DeadLetter)] == [4]


async def test_out_of_memory_makes_the_batch_smaller_and_answers_everything() -> None:
    model = SmallMemory(2)
    records = [event(f"s{n}", 1) for n in range(8)]
    assert len(answers(await served(model, records))) == 8
    assert max(model.sizes) > 2
    assert model.sizes[-1] <= 2


@pytest.mark.parametrize("model", [RaisesOnBad(lambda: RuntimeError("CUDA error: an illegal memory access"))])
async def test_a_poisoned_device_ends_the_worker_and_commits_nothing(model: StreamModel) -> None:
    bench = Serving(MemoryLog(), lambda: model)
    await bench.create_topics()
    await bench.feed([event("a", BAD)])
    with pytest.raises(DeviceLost, match="illegal memory access"):
        await bench.serve()
    async with bench.log.consumer("test.sums.live", ["input"]) as consumer:
        committed = await consumer.committed(TopicPartition("input", 0))
    assert committed is None or committed.offset == 0
    assert await bench.said() == []


async def test_a_dead_letter_too_big_for_its_topic_says_where_the_original_is(tmp_path: Path) -> None:
    log = MemoryLog()
    await log.create_topics([TopicSpec("input", 1, max_record_bytes=5_000_000)])
    bench = Serving(log, RunningSum, options_of(outputs=OutputOptions(spill_folder=str(tmp_path))))
    await bench.create_topics()
    original = b"\xff" * 2_000_000
    await bench.feed([NewRecord(b"a", original), event("a", 1)])
    await bench.serve()
    (letter,) = [m.body for m in await bench.said() if isinstance(m.body, DeadLetter)]
    assert (letter.offset, letter.length, letter.sha256) == (0, len(original), hashlib.sha256(original).hexdigest())
    assert await asyncio.to_thread(Path(letter.spill).read_bytes) == original


@pytest.mark.parametrize(("header_bytes", "kept"), [(1_000, True), (900_000, False)])
async def test_a_dead_letter_too_big_for_its_topic_keeps_its_key_and_its_headers_where_these_are_small(
    tmp_path: Path, header_bytes: int, kept: bool
) -> None:
    log = MemoryLog()
    await log.create_topics([TopicSpec("input", 1, max_record_bytes=5_000_000)])
    bench = Serving(log, RunningSum, options_of(outputs=OutputOptions(spill_folder=str(tmp_path))))
    await bench.create_topics()
    mine = ("mine", b"h" * header_bytes)
    await bench.feed([NewRecord(b"a", b"\xff" * 2_000_000, [mine])])
    await bench.serve()
    (letter,) = await bench.records("deadletters")
    assert letter.key == b"a"
    assert (mine in letter.headers) is kept


async def test_a_record_with_a_giant_key_does_not_block_its_partition(tmp_path: Path) -> None:
    log = MemoryLog()
    await log.create_topics([TopicSpec("input", 1, max_record_bytes=5_000_000)])
    bench = Serving(log, RunningSum, options_of(outputs=OutputOptions(spill_folder=str(tmp_path))))
    await bench.create_topics()
    await bench.feed([NewRecord(b"k" * 2_000_000, b"\xff"), event("a", 1)])
    await bench.serve()
    assert len(answers(await bench.said())) == 1


async def test_a_stream_cannot_take_the_name_of_what_the_worker_keeps_for_itself() -> None:
    """A saved state of a stream called like the replay floor would be read as the floor."""
    bench = Serving(MemoryLog(), RunningSum)
    await bench.create_topics()
    await bench.feed([event("\x00floor", 1), event("a", 2)])
    await bench.serve()
    (letter,) = (m.body for m in await bench.said() if isinstance(m.body, DeadLetter))
    assert "zero byte" in letter.reason
    assert answers(await bench.said()) == {"input/0/1/prediction/0": 2.0}


async def test_the_event_loop_goes_on_while_a_step_is_held() -> None:
    """Promise 7: a hundred turns of the loop pass while the model is in the middle of a step."""
    gate = Gate()
    bench = Serving(MemoryLog(), lambda: Held(gate))
    await bench.create_topics()
    await bench.feed([event("a", 1)])
    turns = 0
    async with bench.running() as worker:
        assert await asyncio.to_thread(gate.began.wait, 10)
        async with bench.log.reader({TopicPartition("input", 0): 0}) as reader:
            while turns < 100 and not gate.gave_up:
                await reader.read()
                turns += 1
        assert not gate.gave_up, f"the loop stood still with the held step: {turns} turns in ten seconds"
        assert worker.status().streams <= 1
        assert not await worker.drained()
        gate.release.set()
        await bench.until(worker, lambda: worker.metrics.histogram("streamer_step_ms", pipeline="sums").count == 1)
    assert turns == 100
    assert answers(await bench.said()) == {"input/0/0/prediction/0": 1.0}
