"""Owners of a partition whose log has no transactions: each has an epoch, and takes over what the others settled."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import pytest

from streamer.codecs.messages import Prediction
from streamer.errors import LogError, StateMismatch
from streamer.log.base import Consumer
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, TopicPartition
from streamer.state.transfer import Pipeline, export_states, import_states
from streamer.testing.broken_log import BrokenLog, Died
from streamer.testing.models import RunningSum
from streamer.testing.passing import PassingConsumer
from streamer.testing.serving import APPLICATION, INPUT, PIPELINE, Serving, event
from streamer.worker.epochs import CLAIM_KEY, NO_EPOCH, named
from streamer.worker.progress import FLOOR_KEY
from streamer.worker.timeline import TIMELINE_KEY

PARTITION = TopicPartition("input", 0)
NOT_STREAMS = (CLAIM_KEY, FLOOR_KEY, TIMELINE_KEY)


class EarlierLog(BrokenLog):
    """How a version before epochs wrote at least once: under plain keys, one write after the other."""

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _Earlier(super().consumer(group, topics))


class _Earlier(PassingConsumer):
    @property
    def transactional(self) -> bool:
        return True


async def bench_over(log: MemoryLog) -> Serving:
    bench = Serving(log, RunningSum)
    await bench.create_topics()
    return bench


async def answered(bench: Serving, value: int, log: BrokenLog | None = None) -> None:
    """One more event of each of two streams, served by a new owner that leaves in peace."""
    before = len(await sums(bench))
    await bench.feed([event("a", value), event("b", value)])
    async with bench.running(log) as worker:
        await bench.until(worker, lambda: worker.status().records >= 2)
    assert len(await sums(bench)) == before + 2


async def sums(bench: Serving) -> dict[str, float]:
    """The answers by their ids, in the order of the input."""
    said = {m.id: m.body.outputs for m in await bench.said() if isinstance(m.body, Prediction)}
    return {i: outputs["y"][0] for i, outputs in sorted(said.items(), key=itemgetter(0)) if outputs is not None}


async def left(bench: Serving) -> list[bytes]:
    """Keys of the changelog that no tombstone ended, in order."""
    latest = {record.key or b"": record.value for record in await bench.records(bench.changelog)}
    return [key for key, value in latest.items() if value is not None]


async def test_owners_take_over_from_each_other_on_a_log_without_transactions() -> None:
    bench = await bench_over(MemoryLog())
    for value in (1, 2, 4):
        await answered(bench, value, BrokenLog(bench.log))
    assert list((await sums(bench)).values()) == [1.0, 1.0, 3.0, 3.0, 7.0, 7.0]


async def test_what_an_earlier_owner_wrote_ends_when_it_is_superseded() -> None:
    bench = await bench_over(MemoryLog())
    for value in range(1, 6):
        await answered(bench, value, BrokenLog(bench.log))
    await answered(bench, 1)  # one commit more, in a transaction
    by_key: dict[bytes, int] = {}
    for raw in await left(bench):
        by_key[named(raw).key] = by_key.get(named(raw).key, 0) + 1
    # The last commit's predecessors are ended by the next one, which never came.
    assert set(by_key) == {b"a", b"b", *NOT_STREAMS}
    assert max(by_key.values()) <= 2


async def test_no_epochs_are_written_where_a_commit_is_a_transaction() -> None:
    bench = await bench_over(MemoryLog())
    await answered(bench, 1)
    assert {named(raw).epoch for raw in await left(bench)} == {NO_EPOCH}


async def test_a_changelog_of_transactions_goes_on_without_them_and_back() -> None:
    bench = await bench_over(MemoryLog())
    await answered(bench, 1)
    await answered(bench, 2, BrokenLog(bench.log))
    await answered(bench, 4, BrokenLog(bench.log, atomic=True))
    await answered(bench, 8)
    assert list((await sums(bench)).values()) == [1.0, 1.0, 3.0, 3.0, 7.0, 7.0, 15.0, 15.0]


async def died_with_states_ahead(bench: Serving) -> None:
    """A version before epochs is killed between its states and their offset."""
    await answered(bench, 1, EarlierLog(bench.log))
    await bench.feed([event("a", 2, x_eos="1")])
    for writes in range(20):
        try:
            await bench.serve(EarlierLog(bench.log, writes))
        except Died:
            committed = (await bench.log.committed("test.sums.live", [PARTITION]))[PARTITION]
            if committed.offset == 2 and (await bench.records(bench.changelog))[-1].key == b"a":
                return
    raise AssertionError("it never died there")


async def test_states_that_an_earlier_version_left_ahead_of_the_offset_are_believed_at_least_once() -> None:
    bench = await bench_over(MemoryLog())
    await died_with_states_ahead(bench)
    await bench.feed([event("a", 4), event("b", 4)])
    await bench.serve(BrokenLog(bench.log))
    assert list((await sums(bench)).values()) == [1.0, 1.0, 3.0, 4.0, 5.0]


async def test_states_that_an_earlier_version_left_ahead_of_the_offset_are_refused_in_transactions() -> None:
    bench = await bench_over(MemoryLog())
    await died_with_states_ahead(bench)
    with pytest.raises(LogError, match=r"serve with log\.delivery: at_least_once until something is committed"):
        await bench.serve()


async def test_a_changelog_that_has_lost_its_owner_is_refused() -> None:
    bench = await bench_over(MemoryLog())
    await answered(bench, 1, BrokenLog(bench.log))
    gone = [NewRecord(raw, None) for raw in await left(bench)]
    await bench.log.append(bench.changelog, 0, gone)
    with pytest.raises(StateMismatch, match=r"changelog/0 holds nothing of owner .* state import --replace"):
        await bench.serve(BrokenLog(bench.log))


async def test_a_claim_that_is_none_is_refused() -> None:
    bench = await bench_over(MemoryLog())
    await answered(bench, 1, BrokenLog(bench.log))
    (claim,) = [raw for raw in await left(bench) if named(raw).key == CLAIM_KEY]
    await bench.log.append(bench.changelog, 0, [NewRecord(claim, b"{}")])
    with pytest.raises(StateMismatch, match="is no claim of an owner"):
        await bench.serve(BrokenLog(bench.log))


async def test_a_backup_holds_what_the_last_owner_settled_and_its_import_leaves_nothing_of_the_owners(
    tmp_path: Path,
) -> None:
    bench = await bench_over(MemoryLog())
    model = bench.worker().status().model
    pipeline = Pipeline(APPLICATION, PIPELINE, INPUT, model, {"sum": ("float32", (1,))})
    for value in (1, 2):
        await answered(bench, value, BrokenLog(bench.log))
    assert (await export_states(BrokenLog(bench.log), pipeline, tmp_path / "backup")).states == 2
    await answered(bench, 4, BrokenLog(bench.log))
    await import_states(BrokenLog(bench.log), pipeline, tmp_path / "backup", replace=True)
    assert set(await left(bench)) == {b"a", b"b", FLOOR_KEY, TIMELINE_KEY}
    await bench.serve(BrokenLog(bench.log))  # the last records once more, from the states of the backup
    assert list((await sums(bench)).values()) == [1.0, 1.0, 3.0, 3.0, 7.0, 7.0]
    await answered(bench, 8, BrokenLog(bench.log))
    assert list((await sums(bench)).values())[-2:] == [15.0, 15.0]
