"""Streams run again beside the live pipeline: what they say now goes to topics of their own, or is compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from streamer.codecs.messages import Envelope, Role, decode
from streamer.errors import ConfigurationError
from streamer.log.base import Log, TopicSpec
from streamer.observe.comparison import Report, compare
from streamer.records import NewRecord, Record, TopicPartition, header
from streamer.rewind.find import records_between
from streamer.rewind.plan import Plan, Rewound
from streamer.rewind.rerun import Rerun, since
from streamer.worker.pending import Said, by_topic

COMPARED: tuple[Role, ...] = ("transcripts", "predictions", "alerts", "streams", "deadletters")
MAX_RECORD_BYTES = 1_000_000


@dataclass(slots=True)
class Published:
    """What one plan came to. messages: how many it said; topics: where they lie."""

    plan: Plan
    messages: int
    topics: tuple[str, ...]


def role_of(name: str) -> str:
    """The role in which a re-run of this name speaks."""
    return f"rewind-{name}"


def rerun_of(log: Log, pipeline: Rewound, partition: TopicPartition, role: str) -> Rerun:
    """Ready to run streams of a partition again. Raises ConfigurationError for a device or dtype that is not there."""
    try:
        return Rerun(
            log,
            partition,
            pipeline.options,
            pipeline.bundle,
            pipeline.task,
            pipeline.decoder,
            source=pipeline.source(role),
            max_record_bytes=MAX_RECORD_BYTES,
        )
    except ValueError as error:
        raise ConfigurationError(f"pipeline {pipeline.name!r}: {error}") from error


async def said_again(log: Log, pipeline: Rewound, plan: Plan, role: str) -> AsyncIterator[list[Said]]:
    """What a stream says from `plan.target` on. Raises StateMismatch for a snapshot that cannot be gone on with."""
    with rerun_of(log, pipeline, plan.partition, role) as rerun:
        if plan.snapshot is not None:
            await rerun.lay(plan.stream, plan.snapshot.record)
        async for said in rerun.run(plan.stream, plan.begin, plan.end):
            if rest := since(said, plan.target):
                yield rest


async def publish(log: Log, pipeline: Rewound, plans: Sequence[Plan], name: str) -> list[Published]:
    """Run streams again and publish what they say to topics of the run's own: `rewind-NAME.` before the live names.

    In no transaction: a run that failed is made again under another name. Raises StateMismatch, DeviceLost, LogError.
    """
    role = role_of(name)
    outputs = pipeline.options.outputs.under(f"{role}.")
    count = (await log.topics())[pipeline.options.input.topic].partitions
    done = []
    for plan in plans:
        messages, topics = 0, dict[str, None]()
        async for said in said_again(log, pipeline, plan, role):
            for topic, records in by_topic(said, lambda kind: str(getattr(outputs, kind))):
                if topic not in topics:
                    await log.create_topics([TopicSpec(topic, count)])
                topics[topic] = None
                await log.append(topic, plan.partition.partition, list(records))
                messages += len(records)
        done.append(Published(plan, messages, tuple(topics)))
    return done


async def compared(log: Log, pipeline: Rewound, plan: Plan, name: str, tolerance: float = 0.0) -> Report:
    """Run a stream again and hold what it says against what the live pipeline said of the same records; nothing is
    published. Both are held in memory. Raises StateMismatch, DeviceLost, InputError, LogError."""
    again: dict[str, list[Envelope]] = {role: [] for role in COMPARED}
    async for said in said_again(log, pipeline, plan, role_of(name)):
        for role, records in by_topic(said, str):
            if role in again:
                again[role] += _messages(plan, (_as_read(record) for record in records))
    live = [message async for message in _said_live(log, pipeline, plan)]
    # Topic by topic, as the live ones are read: between topics there is no order.
    return compare(live, chain.from_iterable(again.values()), tolerance)


async def _said_live(log: Log, pipeline: Rewound, plan: Plan) -> AsyncIterator[Envelope]:
    """What the live pipeline has said of a stream's records in the plan's range."""
    mine = ("ce_source", pipeline.source().encode())
    there = await log.topics()
    names = dict.fromkeys(getattr(pipeline.options.outputs, role) for role in COMPARED)
    for name in (TopicPartition(topic, plan.partition.partition) for topic in names if topic in there):
        kept = (await log.offsets([name]))[name]
        async for batch in records_between(log, name, kept.begin, kept.end):
            for message in _messages(plan, (record for record in batch.records if mine in record.headers)):
                yield message


def _messages(plan: Plan, records: Iterable[Record]) -> list[Envelope]:
    """Those of the plan's stream that answer a record of its range; voiced audio is no message."""
    found = [decode(record) for record in records if header(record, "ce_id") is not None]
    return [message for message in found if _is_of(plan, message)]


def _is_of(plan: Plan, message: Envelope) -> bool:
    topic, partition, offset, _ = message.id.split("/", 3)
    here = TopicPartition(topic, int(partition)) == plan.partition and plan.target <= int(offset) < plan.end
    return here and getattr(message.body, "stream", message.subject) == plan.stream


def _as_read(record: NewRecord) -> Record:
    return Record("", 0, 0, record.timestamp_ms or 0, record.key, record.value, record.headers)
