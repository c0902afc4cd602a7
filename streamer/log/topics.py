"""What all logs say alike about topics: a topic that is missing, one that does not match. Knows no log."""

from __future__ import annotations

from streamer.errors import TopicMismatch, TopicMissing
from streamer.log.base import TopicInfo, TopicSpec

COMPACTION = {
    "tombstone_ms": "delete.retention.ms",
    "segment_ms": "segment.ms",
    "segment_bytes": "segment.bytes",
    "min_lag_ms": "min.compaction.lag.ms",
}
"""Kafka's names of what `Compaction` holds."""


FRAMING_BYTES = 4096
"""`max.message.bytes` counts a whole batch with its framing: a record within the topic's limit must fit beside it."""


def kafka_configs(spec: TopicSpec) -> dict[str, str]:
    """The settings of a topic on Kafka, by Kafka's names; what is not there is left to the broker."""
    policy = ["compact"] * spec.compact + ["delete"] * (not spec.compact or spec.retention_ms is not None)
    configs = {
        "cleanup.policy": ",".join(policy),
        "retention.ms": str(-1 if spec.retention_ms is None else spec.retention_ms),
        "max.message.bytes": str(spec.max_record_bytes + FRAMING_BYTES),
    }
    if spec.compaction is not None:
        configs |= {key: str(getattr(spec.compaction, field)) for field, key in COMPACTION.items()}
    return configs


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
    """A topic of an embedded log that is as it should be."""
    return embedded(spec.name, spec.partitions, spec.compact, spec.retention_ms, spec.max_record_bytes)


def embedded(name: str, partitions: int, compact: bool, retention_ms: int | None, max_record_bytes: int) -> TopicInfo:
    """A topic of an embedded log."""
    deletes = not compact or retention_ms is not None
    return TopicInfo(name, partitions, compact, retention_ms, max_record_bytes, deletes)
