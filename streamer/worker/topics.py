"""The topics that a pipeline needs, and the check that they are as they must be (DESIGN.md rule 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streamer.errors import TopicMismatch
from streamer.log.base import Log, TopicInfo, TopicSpec
from streamer.options import PipelineOptions

STATE_RECORD_BYTES = 8_000_000


def group_of(application: str, pipeline: str) -> str:
    """The consumer group of a pipeline's live role."""
    return f"{application}.{pipeline}.live"


def changelog_of(group: str, topic: str) -> str:
    """The compacted topic that holds the states of `group` over `topic`."""
    return f"{group}.{topic}.changelog"


def output_topics(options: PipelineOptions) -> tuple[str, ...]:
    """Names of the five output topics."""
    o = options.outputs
    return (o.transcripts, o.predictions, o.alerts, o.streams, o.deadletters)


def needed(options: PipelineOptions, group: str, partitions: int) -> list[TopicSpec]:
    """What a pipeline reads and writes, with `partitions` as its input has."""
    changelog = changelog_of(group, options.input.topic)
    voiced = () if options.gate is None else (options.outputs.voiced,)
    outputs = [TopicSpec(name, partitions) for name in dict.fromkeys((*output_topics(options), *voiced))]
    state = TopicSpec(changelog, partitions, compact=True, max_record_bytes=STATE_RECORD_BYTES)
    return [TopicSpec(options.input.topic, partitions), *outputs, state]


async def ensure(log: Log, specs: Iterable[TopicSpec], changelogs: frozenset[str], inputs: frozenset[str]) -> None:
    """Create what is missing and check what is there.

    Raises TopicMismatch: an output topic with fewer partitions than its largest input, a changelog with another number
    than its input or without compaction, an input that is compacted.
    """
    wanted = _largest(specs)
    there = await log.topics()
    await log.create_topics(spec for spec in wanted.values() if spec.name not in there)
    for name, spec in wanted.items():
        if (info := there.get(name)) is not None:
            _check(info, spec, name in changelogs, name in inputs)


def _largest(specs: Iterable[TopicSpec]) -> Mapping[str, TopicSpec]:
    wanted: dict[str, TopicSpec] = {}
    for spec in specs:
        if spec.name not in wanted or wanted[spec.name].partitions < spec.partitions:
            wanted[spec.name] = spec
    return wanted


def _check(info: TopicInfo, spec: TopicSpec, changelog: bool, is_input: bool) -> None:
    name = info.name
    if changelog and info.partitions != spec.partitions:
        raise TopicMismatch(
            f"changelog {name!r} has {info.partitions} partitions, its input {spec.partitions}: states would be lost; "
            "give the pipeline a new name, or move the input to a topic with the old count"
        )
    if changelog and not info.compact:
        raise TopicMismatch(f"changelog {name!r} must have cleanup.policy=compact")
    if is_input and info.compact:
        raise TopicMismatch(f"input {name!r} is compacted: records would vanish from under a replay; use delete")
    if info.partitions < spec.partitions:
        raise TopicMismatch(f"topic {name!r} has {info.partitions} partitions, {spec.partitions} are needed")
