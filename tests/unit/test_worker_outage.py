"""A log that is away for a while ends no worker, whatever the worker was about to ask of it."""

from __future__ import annotations

import asyncio

import pytest

from streamer.codecs.messages import Prediction
from streamer.errors import LogUnavailable
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions
from streamer.testing.away_log import AwayLog
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of

BRIEF = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=1, wait_s=0.0)


async def fed(log: MemoryLog, commit: CommitOptions | None = None) -> Serving:
    """A pipeline with one record to be answered."""
    bench = Serving(log, RunningSum, options_of() if commit is None else options_of(commit=commit))
    await bench.create_topics()
    await bench.feed([event("a", 1.0)])
    return bench


@pytest.mark.parametrize("what", ["join", "topics", "offsets"])
async def test_a_worker_that_finds_the_log_away_waits_for_it(what: str) -> None:
    bench = await fed(MemoryLog())
    away = AwayLog(bench.log, **{what: 2})
    await bench.serve(away)
    assert away.refusals[what] == 0
    assert [m.id for m in await bench.said() if isinstance(m.body, Prediction)] == ["input/0/0/prediction/0"]


async def test_a_worker_gives_up_a_log_that_stays_away_for_longer_than_it_was_told_to_wait() -> None:
    bench = await fed(MemoryLog(), BRIEF)
    with pytest.raises(LogUnavailable, match="away: join"):
        await bench.serve(AwayLog(bench.log, join=2))


async def test_a_worker_that_is_sent_away_does_not_wait_for_a_log_that_it_never_reached() -> None:
    bench = await fed(MemoryLog())
    away = AwayLog(bench.log, join=1_000_000)
    async with asyncio.timeout(10.0), bench.running(away) as worker:
        await bench.until(worker, lambda: away.refusals["join"] < 1_000_000)
    assert [m for m in await bench.said() if isinstance(m.body, Prediction)] == []
