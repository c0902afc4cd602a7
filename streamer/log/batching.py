"""How batches are measured and shared out: the sizes of records, and fair shares of one read. Pure; knows no log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamer.errors import LogError, RecordTooLarge
from streamer.log.base import TopicInfo
from streamer.records import NewRecord


def record_bytes(record: NewRecord) -> int:
    """Payload bytes of a record: key, value, header names and values."""
    key, value, headers, _ = record
    size = (len(key) if key else 0) + (len(value) if value else 0)
    for name, content in headers:
        size += len(name) + len(content)
    return size


class Measured(NamedTuple):
    """What a topic's rules are checked against: the largest record, and the first without a key (-1: none)."""

    largest_bytes: int
    largest_index: int
    keyless_index: int


def measure(records: Sequence[NewRecord]) -> Measured:
    """Sizes and keys of a batch; needs no log, so it is done before any lock is taken."""
    sizes = [record_bytes(record) for record in records]
    largest = max(sizes, default=0)
    keyless = next((i for i, record in enumerate(records) if record.key is None), -1)
    return Measured(largest, sizes.index(largest) if sizes else -1, keyless)


def check_measured(topic: TopicInfo, batch: Measured) -> None:
    """Raises RecordTooLarge for a record over its topic's limit, LogError for one without a key in a compact topic."""
    if batch.largest_bytes > topic.max_record_bytes:
        raise RecordTooLarge(
            f"record {batch.largest_index} of the batch for topic {topic.name!r} has {batch.largest_bytes:,} bytes, "
            f"the topic takes {topic.max_record_bytes:,}: raise the topic's max_record_bytes or send smaller records"
        )
    if topic.compact and batch.keyless_index >= 0:
        raise LogError(
            f"record {batch.keyless_index} of the batch for topic {topic.name!r} has no key, which compaction needs"
        )


def fair_shares(available: Sequence[int], total: int) -> list[int]:
    """How many of `total` records each partition gives, no partition waiting for a longer one.

    available: records each has to give. Returns as many numbers, none above its own, with sum
    min(total, sum(available)); what a short partition leaves is shared by the others.
    """
    shares = [0] * len(available)
    left = total
    hungry = [i for i, count in enumerate(available) if count > 0]
    while left > 0 and hungry:
        each = max(1, left // len(hungry))
        for i in hungry:
            given = min(each, available[i] - shares[i], left)
            shares[i] += given
            left -= given
        hungry = [i for i in hungry if shares[i] < available[i]]
    return shares
