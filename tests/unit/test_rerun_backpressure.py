"""Promise 8 in a re-run: what was read again and is finished is in flight no more, although nothing is committed."""

from __future__ import annotations

import asyncio

from streamer.codecs.messages import Prediction
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions
from streamer.records import TopicPartition
from streamer.testing.models import RunningSum
from streamer.testing.serving import Serving, event, options_of

ONE_BATCH_AT_A_TIME = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=60_000, max_inflight_bytes=1)


async def test_a_worker_that_has_re_run_to_the_committed_offset_and_no_further_goes_on_reading() -> None:
    log = MemoryLog()
    bench = Serving(log, RunningSum, options_of(commit=ONE_BATCH_AT_A_TIME))
    await bench.create_topics()
    await bench.feed([event("a", 1), event("a", 2)])
    await bench.serve()  # and is killed: everything is committed, nothing saved
    async with asyncio.timeout(10), bench.running() as worker:
        await bench.until(worker, lambda: worker.status().records == 2)  # both are read again, which fills its memory
        await bench.feed([event("a", 4)])
        await bench.until(worker, lambda: log.partition(TopicPartition("predictions", 0)).end == 3)
    said = [m.body.outputs["y"][0] for m in await bench.said() if isinstance(m.body, Prediction) and m.body.outputs]
    assert said == [1, 3, 7]
