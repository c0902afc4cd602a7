"""Rule 6: a session that was replaced stays so, whoever goes on with the stream and whenever the last owner died."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from torch import Tensor

from models.contract import Outputs, Signature, State
from streamer.codecs.audio import AudioDecoder, audio_record
from streamer.codecs.messages import DeadLetter, StreamEvent
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, EngineOptions
from streamer.records import NewRecord, Record, TopicPartition
from streamer.testing.broken_log import BrokenLog
from streamer.testing.faults import Gate
from streamer.testing.models import RunningSum
from streamer.testing.serving import INPUT, Serving, event, options_of
from streamer.testing.watched_log import WatchedLog
from streamer.worker.progress import Progress
from streamer.worker.results import Copy, PartitionResult, StreamKey

SELDOM_SAVED = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=60_000)


@pytest.mark.parametrize("atomic", [True, False], ids=["a commit is a transaction", "a commit is several writes"])
async def test_a_worker_that_dies_before_the_new_sessions_state_is_saved_does_not_let_the_old_one_in(
    atomic: bool,
) -> None:
    """The old session's mark is all that remembers it until then."""
    bench = Serving(MemoryLog(), RunningSum, options_of(commit=SELDOM_SAVED))
    await bench.create_topics()
    await bench.feed([event("a", 1, x_session="one"), event("a", 2, x_session="two")])
    log = WatchedLog(BrokenLog(bench.log, atomic=atomic))
    dying = asyncio.create_task(bench.worker(log).run())
    await log.until(lambda: any(commit.offset == 2 for commit in log.commits))
    await bench.feed([event("b", 0)])  # one more commit, which could end the mark
    await log.until(lambda: log.commits[-1].offset == 3)
    dying.cancel()
    await asyncio.wait([dying])
    await bench.feed([event("a", 4, x_session="one")])
    await bench.serve(BrokenLog(bench.log, atomic=atomic))
    said = await bench.said()
    assert [m.body.offset for m in said if isinstance(m.body, DeadLetter)] == [3]
    assert [m.id for m in said if isinstance(m.body, StreamEvent) and m.body.event == "ended"] == ["input/0/0/ended/0"]


CHUNK, RATE_HZ = 160, 16_000


class HeldAtLoud:
    """Counts samples; the first step with a loud one waits at the gate."""

    signature = Signature(
        input="audio",
        rate_hz=RATE_HZ,
        channels=1,
        chunk_samples=CHUNK,
        samples_per_frame=CHUNK,
        latency_samples=0,
        outputs=("y",),
    )

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def init_state(self, batch: int) -> State:
        return {"count": torch.zeros(batch, 1)}

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        if bool((x > 0.5).any()):
            self._gate.wait()
        count = state["count"] + lengths[:, None]
        return {"y": count[:, None], "lengths": (lengths > 0).long()}, {"count": count}


def sound(session: str, chunks: int, *, loud: bool = False) -> NewRecord:
    """A record of so many chunks, loud at its end or not at all."""
    samples = np.full(chunks * CHUNK, 1000, np.int16)
    samples[-1] = 32_000 if loud else 1000
    return audio_record("a", samples, RATE_HZ, session=session, seq=0, sample_index=0, time_ms=1000)


async def committed_beside(bench: Serving, log: WatchedLog) -> None:
    """Wait for a commit of another partition, which needs no engine."""
    seen = len(log.commits)
    await bench.feed([NewRecord(b"b", b"odd", [("content-type", b"nonsense")])], 1)
    await log.until(lambda: any(commit.partition.partition == 1 and commit.offset for commit in log.commits[seen:]))


async def test_nor_does_one_that_dies_in_the_middle_of_the_new_sessions_first_record() -> None:
    """In deterministic mode a long record takes many calls, and commits go on between them."""
    gate = Gate()
    engine = EngineOptions(max_batch=1, slots=2, deterministic=True, device="cpu")
    bench = Serving(
        MemoryLog(),
        lambda: HeldAtLoud(gate),
        options_of(2, commit=SELDOM_SAVED, engine=engine),
        decoder=AudioDecoder(rate_hz=RATE_HZ, channels=1),
    )
    await bench.create_topics()
    log = WatchedLog(BrokenLog(bench.log, atomic=True))
    dying = asyncio.create_task(bench.worker(log).run())
    await committed_beside(bench, log)
    await bench.feed([sound("one", 1), sound("two", 3, loud=True)])
    assert await asyncio.to_thread(gate.began.wait, 10)
    await log.until(lambda: any(commit.partition.partition == 0 and commit.offset == 1 for commit in log.commits))
    for _ in range(2):  # rounds of commits, each of which could end the mark
        await committed_beside(bench, log)
    assert not gate.gave_up
    dying.cancel()
    gate.release.set()
    await asyncio.wait([dying])
    await bench.feed([sound("one", 1)])
    await bench.serve(BrokenLog(bench.log, atomic=True))
    letters = [m.body for m in await bench.said() if isinstance(m.body, DeadLetter)]
    assert [letter.offset for letter in letters if letter.partition == 0] == [2]


def test_a_mark_that_stands_where_a_re_run_begins_is_there_until_the_re_run_is_beyond_it() -> None:
    """The record at its place may begin the next session's stream, and has not been stepped yet."""
    place = TopicPartition(INPUT, 0)
    book = Progress(place, changelog="log", topic_of=lambda role: role, committed=1, position=1, written_floor=0)
    book.restored_mark(Copy(StreamKey(0, "a"), b"a", 1, b"mark", False))
    first = book.close()
    assert first is not None
    assert (first.offset, first.tombstones) == (1, [])
    book.settle()
    book.deliver([Record(INPUT, 0, 1, 0, b"b", b"odd", ())], 2)
    book.apply(PartitionResult(finished=[1]))  # a dead letter of another stream
    beyond = book.close()
    assert beyond is not None
    assert [record.key for append in beyond.tombstones for record in append.records] == [b"a"]
