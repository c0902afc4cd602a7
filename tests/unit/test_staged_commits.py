"""A commit at least once goes in stages; tried again, it goes on with the stage that failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamer.errors import LogUnavailable, RecordTooLarge
from streamer.log.base import Commit
from streamer.log.kafka_publish import Prepared
from streamer.log.kafka_staged import StagedCommits
from streamer.records import Append, NewRecord, TopicPartition


class Journal:
    """A publisher and a group that write down what they did; what stands in `failing` fails once."""

    def __init__(self, *failing: str) -> None:
        self.done: list[str] = []
        self.failing = set(failing)
        self.refused: set[str] = set()

    async def prepare(self, appends: Sequence[Append]) -> list[Prepared]:
        if refused := self.refused & {append.topic for append in appends}:
            raise RecordTooLarge(refused.pop())
        return [Prepared(TopicPartition(topic, number), records, []) for topic, number, records in appends]

    async def publish(self, appends: Sequence[Prepared]) -> list[int]:
        for (topic, number), _, _ in appends:
            self.do(f"{topic}/{number}")
        return []

    async def move(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self.do(f"offset/{commit.partition.partition}")

    def do(self, what: str) -> None:
        if what in self.failing:
            self.failing.remove(what)
            raise LogUnavailable(what)
        self.done.append(what)


PARTS = ("outputs", "states", "floor", "tombstones")
STAGES = ("outputs", "states", "floor", "offset", "tombstones")


def commit(number: int) -> Commit:
    parts = {name: [Append(name, number, [NewRecord(b"k", b"v")])] for name in PARTS}
    return Commit(TopicPartition("in", number), 1, **parts)  # type: ignore[arg-type]


async def test_each_stage_of_all_partitions_comes_before_the_next_stage_of_any() -> None:
    journal = Journal()
    await StagedCommits(journal).commit([commit(0), commit(1)], journal.move)
    assert journal.done == [f"{stage}/{number}" for stage in STAGES for number in (0, 1)]


@pytest.mark.parametrize("failing", STAGES)
async def test_tried_again_it_goes_on_with_the_stage_that_failed(failing: str) -> None:
    journal = Journal(f"{failing}/0")
    commits, staged = [commit(0)], StagedCommits(journal)
    with pytest.raises(LogUnavailable):
        await staged.commit(commits, journal.move)
    await staged.commit(commits, journal.move)
    assert journal.done == [f"{stage}/0" for stage in STAGES]


async def test_another_commit_begins_at_the_first_stage_whatever_became_of_the_one_before() -> None:
    journal = Journal("offset/0")
    staged = StagedCommits(journal)
    with pytest.raises(LogUnavailable):
        await staged.commit([commit(0)], journal.move)
    await staged.commit([commit(0)], journal.move)
    assert journal.done.count("states/0") == 2


async def test_a_commit_that_joins_one_that_failed_begins_at_the_first_stage() -> None:
    journal = Journal("offset/0")
    first, second, staged = commit(0), commit(1), StagedCommits(journal)
    with pytest.raises(LogUnavailable):
        await staged.commit([first], journal.move)
    await staged.commit([first, second], journal.move)
    assert [what for what in journal.done if what.endswith("/0")] == [f"{stage}/0" for stage in STAGES]
    assert [what for what in journal.done if what.endswith("/1")] == [f"{stage}/1" for stage in STAGES]


@pytest.mark.parametrize("refused", PARTS)
async def test_nothing_is_published_of_a_commit_of_which_any_part_is_refused(refused: str) -> None:
    journal = Journal()
    journal.refused = {refused}
    with pytest.raises(RecordTooLarge):
        await StagedCommits(journal).commit([commit(0)], journal.move)
    assert journal.done == []
