"""The topics that a pipeline needs, and the check that they are as they must be (DESIGN.md rule 7)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from streamer.log.base import Compaction, Log, TopicInfo, TopicSpec
from streamer.options import PipelineOptions, shadow_of
from streamer.worker.topic_checks import (
    check_changelog,
    check_input,
    check_room,
    check_topic,
    few_copies,
    short_retention,
    state_bytes,
)

if TYPE_CHECKING:
    from models.contract import StreamModel

logger = logging.getLogger(__name__)
STATE_RECORD_BYTES = 8_000_000
KEPT_BYTES = STATE_RECORD_BYTES - 65_536
"""The largest state that a topic of kept snapshots takes, beside its key."""


LIVE, SHADOW = "live", "shadow"


class Part(NamedTuple):
    """One of the workers of a pipeline: the live one, or the candidate in its shadow."""

    role: str
    group: str
    options: PipelineOptions


def group_of(application: str, pipeline: str, role: str = LIVE) -> str:
    """The consumer group of a pipeline in a role: each has its own, so that none fences another (DESIGN.md rule 7)."""
    return f"{application}.{pipeline}.{role}"


def source_of(application: str, pipeline: str, role: str = LIVE) -> str:
    """The `ce_source` of what a pipeline says in a role."""
    return f"{application}/{group_of(application, pipeline, role)}/{pipeline}/{role}"


def parts_of(application: str, pipeline: str, options: PipelineOptions) -> list[Part]:
    """What of a pipeline has a group of its own: the live part first, then its shadow where it has one."""
    parts = [Part(LIVE, group_of(application, pipeline), options)]
    if (shadow := shadow_of(options)) is not None:
        parts.append(Part(SHADOW, group_of(application, pipeline, SHADOW), shadow))
    return parts


def changelog_of(group: str, topic: str) -> str:
    """The compacted topic that holds the states of `group` over `topic`."""
    return f"{group}.{topic}.changelog"


def snapshots_of(changelog: str) -> str:
    """The topic that keeps what a changelog held for a while, the older states beside the newer ones."""
    return f"{changelog.removesuffix('.changelog')}.snapshots"


def output_topics(options: PipelineOptions) -> tuple[str, ...]:
    """Names of the five output topics."""
    o = options.outputs
    return (o.transcripts, o.predictions, o.alerts, o.streams, o.deadletters)


def written_topics(options: PipelineOptions) -> tuple[str, ...]:
    """Names of all topics that a pipeline may publish to, each once."""
    voiced = () if options.gate is None else (options.outputs.voiced,)
    return tuple(dict.fromkeys((*output_topics(options), *voiced)))


def changelog_spec(name: str, partitions: int) -> TopicSpec:
    """A changelog as it is created: compacted alone, soon, and its tombstones there for a day."""
    return TopicSpec(name, partitions, compact=True, max_record_bytes=STATE_RECORD_BYTES, compaction=Compaction())


def needed(options: PipelineOptions, group: str, partitions: int) -> list[TopicSpec]:
    """What a pipeline reads and writes, with `partitions` as its input has."""
    changelog = changelog_of(group, options.input.topic)
    outputs = [TopicSpec(name, partitions) for name in written_topics(options)]
    specs = [TopicSpec(options.input.topic, partitions), *outputs, changelog_spec(changelog, partitions)]
    if (kept_s := options.commit.keep_snapshots_s) is not None:
        kept = snapshots_of(changelog)
        specs.append(TopicSpec(kept, partitions, retention_ms=int(kept_s * 1000), max_record_bytes=STATE_RECORD_BYTES))
    return specs


async def ensure(log: Log, specs: Iterable[TopicSpec], changelogs: frozenset[str], inputs: frozenset[str]) -> None:
    """Create what is missing and check what is there.

    Raises TopicMismatch: an output topic with fewer partitions than its largest input, a changelog with another number
    than its input or that loses states, an input that is compacted. PermissionDenied: settings that nobody shows.
    """
    wanted = _largest(specs)
    there = await log.topics()
    await log.create_topics(spec for spec in wanted.values() if spec.name not in there)
    for name, spec in sorted(wanted.items(), key=lambda pair: pair[0] not in changelogs):  # the worst first
        if (info := there.get(name)) is None:
            continue
        for warning in check_changelog(info, spec.partitions) if name in changelogs else ():
            logger.warning("%s", warning)
        if name in inputs:
            check_input(info)
        check_topic(info, spec)


def look_at(there: Mapping[str, TopicInfo], options: PipelineOptions, group: str, model: StreamModel) -> None:
    """Say what may go wrong later with a pipeline's topics. Raises TopicMismatch where a state has no room."""
    source, changelog = there[options.input.topic], there[changelog_of(group, options.input.topic)]
    check_room(changelog, state_bytes(model))
    if warning := short_retention(source, options.commit):
        logger.warning("%s", warning)
    for info in (source, changelog):
        if remark := few_copies(info):
            logger.info("%s", remark)


def _largest(specs: Iterable[TopicSpec]) -> Mapping[str, TopicSpec]:
    wanted: dict[str, TopicSpec] = {}
    for spec in specs:
        if spec.name not in wanted or wanted[spec.name].partitions < spec.partitions:
            wanted[spec.name] = spec
    return wanted
