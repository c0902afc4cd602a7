"""A committed offset that states are ahead of: an old answer where both move at once (DESIGN.md rule 3)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamer.codecs.messages import Prediction
from streamer.errors import LogError
from streamer.log.base import Committed, Consumer, Log
from streamer.log.memory import MemoryLog
from streamer.records import TopicPartition
from streamer.testing.models import RunningSum
from streamer.testing.passing import PassingConsumer, PassingLog
from streamer.testing.serving import Serving, event


class ForgetfulLog(PassingLog):
    """`log`, whose members are told an old offset so many times before they are told the right one."""

    def __init__(self, log: Log, old: Committed | None, times: int) -> None:
        super().__init__(log)
        self.old = old
        self.times = times

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _Forgetful(self, super().consumer(group, topics))


class _Forgetful(PassingConsumer):
    def __init__(self, log: ForgetfulLog, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._log = log

    async def committed(self, partition: TopicPartition) -> Committed | None:
        if self._log.times > 0:
            self._log.times -= 1
            return self._log.old
        return await super().committed(partition)


async def with_a_saved_state() -> Serving:
    """A pipeline that has answered two records and stopped."""
    bench = Serving(MemoryLog(), RunningSum)
    await bench.create_topics()
    await bench.feed([event("a", 1), event("a", 2)])
    async with bench.running() as worker:
        await bench.until(worker, lambda: worker.status().records == 2)
    await bench.feed([event("a", 4)])
    return bench


async def sums(bench: Serving) -> list[float]:
    """The answers in the order of the input, those that were given twice too."""
    said = [(m.id, m.body.outputs) for m in await bench.said() if isinstance(m.body, Prediction)]
    return [y for _, y in sorted((i, outputs["y"][0]) for i, outputs in said if outputs is not None)]


@pytest.mark.parametrize("old", [None, Committed(1, "an earlier commit")])
async def test_an_old_answer_is_asked_for_again_and_nothing_is_said_twice(old: Committed | None) -> None:
    bench = await with_a_saved_state()
    log = ForgetfulLog(bench.log, old, 3)
    await bench.serve(log)
    assert log.times == 0
    assert await sums(bench) == [1.0, 3.0, 7.0]


async def test_an_offset_that_stays_behind_the_states_ends_the_worker_and_says_how_to_mend_it() -> None:
    bench = await with_a_saved_state()
    with pytest.raises(LogError, match=r"input/0: .* below 2, the committed offset is 1.*at_least_once.*--replace"):
        await bench.serve(ForgetfulLog(bench.log, Committed(1, "set back"), 1000))


async def test_where_the_offsets_of_a_group_are_gone_its_states_are_kept() -> None:
    bench = await with_a_saved_state()
    await bench.serve(ForgetfulLog(bench.log, None, 1000))
    assert await sums(bench) == [1.0, 3.0, 7.0]
