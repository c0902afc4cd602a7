"""Streams of a stopped pipeline run again in place: what they say is published anew under the same ids, as the live
pipeline's own, and the states that they come to take the place of the saved ones.

It is one commit a partition, at the offset that is committed already. So no other stream is touched, a restart goes on
behind it as if nothing had been, and whoever reads only what is committed sees all of it or nothing. Had the offset
gone back instead, the states of other streams would lie ahead of it, which on a log with transactions is the sign of a
stale answer (DESIGN.md rule 3), and streams that have ended would begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamer.errors import Fenced, InputError
from streamer.log.base import Commit, Consumer, Log
from streamer.records import Append, TopicPartition
from streamer.rewind.again import rerun_of
from streamer.rewind.plan import Plan, Rewound
from streamer.rewind.rerun import since
from streamer.state.file import PartitionStates
from streamer.state.transfer import WAIT_S, Pipeline, commit_of, saved_of, sole_member
from streamer.worker import topics
from streamer.worker.pending import by_topic
from streamer.worker.results import Copy


@dataclass(slots=True)
class InPlace:
    """A stream that was run again up to what is committed. copy: the state that it came to."""

    plan: Plan
    outputs: list[Append]
    copy: Copy

    @property
    def messages(self) -> int:
        """How many were said anew."""
        return sum(len(append.records) for append in self.outputs)


async def run_in_place(log: Log, pipeline: Rewound, plans: Sequence[Plan], wait_s: float = WAIT_S) -> list[InPlace]:
    """Run streams again up to the committed offset, then publish and save all of it; it is held in memory.

    In one transaction on the SQLite and memory logs, in one a partition on Kafka with `exactly_once`. Raises Fenced (a
    worker is live), InputError (nothing is committed, or not as far), StateMismatch, DeviceLost, LogError.
    """
    partitions = list(dict.fromkeys(plan.partition for plan in plans))
    committed = {name: at.offset for name, at in (await log.committed(pipeline.group, partitions)).items()}
    _check_reached(plans, committed)
    done = [await _again(log, pipeline, replace(plan, end=committed[plan.partition])) for plan in plans]
    count = (await log.topics())[pipeline.options.input.topic].partitions
    owner = Pipeline(pipeline.application, pipeline.name, pipeline.options.input.topic, pipeline.bundle.tag, {})
    async with sole_member(log, owner, count, wait_s) as consumer:
        commits = []
        for name in partitions:
            mine = [one for one in done if one.plan.partition == name]
            commits.append(await _commit(log, owner, consumer, mine, committed[name]))
        await consumer.commit(commits)
    return done


def _check_reached(plans: Sequence[Plan], committed: dict[TopicPartition, int]) -> None:
    for plan in plans:
        if plan.partition not in committed:
            raise InputError(f"{plan.partition}: the pipeline has committed nothing of it: there is nothing to repeat")
        if plan.target > committed[plan.partition]:
            raise InputError(
                f"{plan.partition} was answered below offset {committed[plan.partition]}, not up to {plan.target}: "
                "the pipeline itself will come to that"
            )


async def _again(log: Log, pipeline: Rewound, plan: Plan) -> InPlace:
    by_name: dict[str, list[Append]] = {}
    outputs = pipeline.options.outputs
    with rerun_of(log, pipeline, plan.partition, topics.LIVE) as rerun:
        if plan.snapshot is not None:
            await rerun.lay(plan.stream, plan.snapshot.record)
        async for said in rerun.run(plan.stream, plan.begin, plan.end):
            for topic, records in by_topic(since(said, plan.target), lambda role: str(getattr(outputs, role))):
                by_name.setdefault(topic, []).append(Append(topic, plan.partition.partition, records))
        copy = await rerun.state(plan.stream, plan.end)
    appends = [
        Append(topic, plan.partition.partition, [record for part in parts for record in part.records])
        for topic, parts in by_name.items()
    ]
    return InPlace(plan, appends, copy)


async def _commit(log: Log, owner: Pipeline, consumer: Consumer, done: Sequence[InPlace], committed: int) -> Commit:
    """What was said and the states, beside all other states as they are."""
    name = done[0].plan.partition
    saved = await saved_of(log, owner, consumer, name.partition)
    if saved.committed is None or saved.committed.offset != committed:
        raise Fenced(f"a worker of group {owner.group!r} has gone on with {name} meanwhile: stop it first")
    states = {record.key or b"": record.value or b"" for record in saved.states}
    states |= {one.plan.stream.encode(): one.copy.data for one in done}
    part = PartitionStates(name.partition, committed, saved.floor, tuple(states.items()))
    commit = commit_of(owner, name, part, saved, committed)
    return replace(commit, outputs=[append for one in done for append in one.outputs])
