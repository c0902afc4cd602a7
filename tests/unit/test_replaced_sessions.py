"""Rule 6: a session that was replaced stays so, whoever goes on with the stream and whenever the last owner died."""

from __future__ import annotations

import asyncio

import pytest

from streamer.codecs.messages import DeadLetter, StreamEvent
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions
from streamer.testing.broken_log import BrokenLog
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of
from streamer.testing.watched_log import WatchedLog

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
