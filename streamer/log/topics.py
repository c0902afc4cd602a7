"""What all logs say alike about topics: a topic that is missing, one that does not match. Knows no log."""

from __future__ import annotations

from streamer.errors import TopicMismatch, TopicMissing
from streamer.log.base import TopicInfo, TopicSpec


def check_matches(spec: TopicSpec, found: TopicInfo | None) -> None:
    """Raises TopicMismatch when a topic exists with another partition count or compaction."""
    if found is not None and (found.partitions, found.compact) != (spec.partitions, spec.compact):
        raise TopicMismatch(
            f"topic {spec.name!r} has {found.partitions} partitions (compact: {found.compact}) but {spec.partitions} "
            f"(compact: {spec.compact}) are needed: use another name, or delete the topic if its records may go"
        )


def topic_missing(name: object, log: str) -> TopicMissing:
    """The error for a topic or partition that `log` (its address in words) does not have."""
    return TopicMissing(f"{log} has no {name}: create the topic first (`python -m streamer topics`)")


def info_of(spec: TopicSpec) -> TopicInfo:
    """A topic that is as it should be."""
    return TopicInfo(spec.name, spec.partitions, spec.compact, spec.retention_ms, spec.max_record_bytes)
