"""What waited to be written when a partition was lost is not written when it comes back: others may have done it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from streamer.codecs.messages import Prediction
from streamer.errors import LogUnavailable
from streamer.log.base import DEFAULT_MAX_RECORDS, Assigned, Commit, Consumer, ConsumerEvent, Log, Revoked
from streamer.log.memory import MemoryLog
from streamer.records import TopicPartition
from streamer.testing.models import RunningSum
from streamer.testing.passing import PassingConsumer, PassingLog
from streamer.testing.serving import INPUT, Serving, event

PLACE = TopicPartition(INPUT, 0)


class CutOffLog(PassingLog):
    """`log`, from which the member is cut off at its first commit that publishes something. refused: its attempts.

    Meanwhile the group gives its partition away, and gives it back: `assigned` counts how often. It can commit again
    when it has been given the partition and has tried another time.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.refused = self.assigned = 0

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _CutOffConsumer(self, super().consumer(group, topics))


class _CutOffConsumer(PassingConsumer):
    def __init__(self, log: CutOffLog, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._log = log

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = await super().read(max_records=max_records, timeout_s=timeout_s)
        if self._log.refused and self._log.assigned == 1:
            self.pause([PLACE])
            events = [Revoked(frozenset([PLACE]), lost=True), Assigned(frozenset([PLACE]), 2)]
        self._log.assigned += sum(isinstance(event, Assigned) for event in events)
        return events

    async def commit(self, commits: Sequence[Commit]) -> None:
        if self._log.assigned < 2 and any(commit.outputs for commit in commits):
            self._log.refused += 1
            raise LogUnavailable("cut off")
        await super().commit(commits)


async def test_a_commit_that_could_not_be_written_before_its_partition_was_lost_is_not_written_after_it_came_back() -> (
    None
):
    log = MemoryLog()
    bench = Serving(log, RunningSum)
    await bench.create_topics()
    await bench.feed([event("a", 1), event("a", 2)])
    cut_off = CutOffLog(log)
    async with bench.running(cut_off) as worker:
        await bench.until(worker, lambda: cut_off.assigned == 2)
        await bench.feed([event("a", 4)])
        await bench.until(worker, lambda: worker.status().lag_records == 0 and worker.status().records >= 3)
    said = [m for m in await bench.said() if isinstance(m.body, Prediction)]
    assert cut_off.refused
    assert Counter(m.id for m in said) == Counter(f"{PLACE}/{offset}/prediction/0" for offset in range(3))
