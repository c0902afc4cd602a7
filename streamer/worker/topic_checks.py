"""Whether topics are as a pipeline needs them: what would lose states is refused, what is slow or short is warned of.

Pure, but for `TopicWatch`, which asks the log again while a worker runs (DESIGN.md rule 7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamer.errors import LogUnavailable, PermissionDenied, TopicMismatch
from streamer.log.base import Log, TopicInfo, TopicSpec
from streamer.options import CommitOptions

if TYPE_CHECKING:
    from models.contract import StreamModel

HOST_BYTES = 262_144
"""What a state holds beside the network's: front end, decoder, task, header."""
LEAST_TOMBSTONE_MS = 3_600_000
"""A restore that takes longer may miss the end of a stream whose state it has read."""
LATE_MS = 86_400_000
LATE_BYTES = 1 << 29
"""Compaction that waits for more than this leaves restores much to read that is long superseded."""


def check_topic(info: TopicInfo, spec: TopicSpec) -> None:
    """Raises TopicMismatch for an output with fewer partitions than its largest input."""
    if info.partitions < spec.partitions:
        raise TopicMismatch(f"topic {info.name!r} has {info.partitions} partitions, {spec.partitions} are needed")


def check_input(info: TopicInfo) -> None:
    """Raises TopicMismatch for an input whose records vanish when later ones come."""
    if info.compact:
        raise TopicMismatch(f"input {info.name!r} is compacted: records would vanish from under a replay; use delete")


def check_changelog(info: TopicInfo, partitions: int) -> list[str]:
    """Warnings. Raises TopicMismatch where states would be lost, PermissionDenied where nobody can tell."""
    name = info.name
    if info.partitions != partitions:
        raise TopicMismatch(
            f"changelog {name!r} has {info.partitions} partitions, its input {partitions}: states would be lost; "
            "give the pipeline a new name, or move the input to a topic with the old count"
        )
    if info.replicas is not None and info.compaction is None:
        raise PermissionDenied(
            f"the settings of changelog {name!r} are not shown to this user: ask for an access rule DescribeConfigs "
            "(python -m streamer topics --print)"
        )
    if not info.compact or info.deletes:
        found = "compact,delete" if info.compact else "delete"
        raise TopicMismatch(
            f"changelog {name!r} has cleanup.policy={found}, states of idle streams would be deleted: it must be "
            f"compact alone ({_alter(name, 'cleanup.policy=compact')})"
        )
    if info.compaction is None:
        return []
    if info.compaction.tombstone_ms < LEAST_TOMBSTONE_MS:
        raise TopicMismatch(
            f"changelog {name!r} has delete.retention.ms={info.compaction.tombstone_ms}: a restore that is under way "
            f"would miss the ends of streams ({_alter(name, f'delete.retention.ms={LEAST_TOMBSTONE_MS}')} or more)"
        )
    return _late(info)


def _late(info: TopicInfo) -> list[str]:
    """What makes a changelog grow before it is compacted."""
    compaction = info.compaction
    if compaction is None:
        return []
    late = {
        "segment.ms": compaction.segment_ms > LATE_MS and compaction.segment_bytes > LATE_BYTES,
        "min.compaction.lag.ms": compaction.min_lag_ms > LATE_MS,
    }
    return [
        f"changelog {info.name!r} is compacted late, restores will read much that is superseded: {key} is large "
        f"({_alter(info.name, f'{key}={LATE_MS}')} or less)"
        for key, is_late in late.items()
        if is_late
    ]


def state_bytes(model: StreamModel) -> int:
    """The most that a saved state of this model is taken to need."""
    return sum(int(leaf.nbytes) for leaf in model.init_state(1).values()) + HOST_BYTES


def check_room(changelog: TopicInfo, state: int) -> None:
    """Raises TopicMismatch for a changelog that does not take a state of so many bytes."""
    if changelog.max_record_bytes < state:
        raise TopicMismatch(
            f"changelog {changelog.name!r} takes records of {changelog.max_record_bytes} bytes, a state of this model "
            f"may have {state}: {_alter(changelog.name, f'max.message.bytes={2 * state}')}"
        )


def short_retention(source: TopicInfo, commit: CommitOptions) -> str:
    """A warning where the input's records go before a restart may need them again; else nothing."""
    needed_ms = int(commit.snapshot_interval_ms + commit.wait_s * 1000)
    if source.retention_ms is None or source.retention_ms >= needed_ms:
        return ""
    return (
        f"input {source.name!r} keeps records for {source.retention_ms} ms, a restart may have to read those of the "
        f"last {needed_ms} again (snapshot_interval_ms and wait_s): keep them longer"
    )


def few_copies(info: TopicInfo) -> str:
    """What is lost with one broker; nothing where that is nothing, or where there are no brokers."""
    if info.replicas is not None and info.replicas < 2:
        return f"topic {info.name!r} has one copy: when its broker is lost, so is what it holds"
    if info.in_sync is not None and info.in_sync < 2:
        return f"topic {info.name!r} has min.insync.replicas={info.in_sync}: appends may be lost with a broker"
    return ""


def _alter(name: str, setting: str) -> str:
    return f"kafka-configs.sh --alter --topic {name} --add-config {setting}"


class TopicWatch:
    """Partition counts while a worker runs: the changelog's must be the input's, no output may have fewer, and none
    may change. Streams would go to other partitions than their states."""

    def __init__(self, log: Log, source: str, changelog: str, outputs: Iterable[str]) -> None:
        self._log = log
        self._source = source
        self._changelog = changelog
        self._names = tuple(dict.fromkeys((source, changelog, *outputs)))
        self._before: dict[str, int] = {}

    async def look(self) -> None:
        """Raises TopicMismatch where a count has changed or does not fit; a log that is away is asked next time."""
        try:
            counts = await self._log.partition_counts(self._names)
        except LogUnavailable:
            return
        partitions = counts.get(self._source)
        if partitions is None:  # deleted: whoever reads it says so
            return
        if counts.get(self._changelog, partitions) != partitions:
            raise TopicMismatch(
                f"input {self._source!r} has {partitions} partitions now, its changelog {self._changelog!r} "
                f"{counts[self._changelog]}: streams and their states would part. Nothing was begun anew: give the "
                "pipeline a new name, or move the input to a topic with the old count"
            )
        for name, count in counts.items():
            if count < partitions or self._before.setdefault(name, count) != count:
                raise TopicMismatch(
                    f"topic {name!r} has {count} partitions now, it had {self._before.get(name, count)} when this "
                    f"worker began and the input has {partitions}: start again with at least as many as the input"
                )
