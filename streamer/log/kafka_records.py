"""Records of ours straight out of aiokafka 0.14's fetcher.

The client makes a record object of its own for every record, which we would look at once and throw away: with the
conversion that is a third of what reading costs. Here what it fetched hands out our records instead; parsing, checks
of hashes, aborted transactions and positions stay the client's. It leans on three names inside the client, which is
why its version is pinned; the conformance suite of the logs is the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords

from streamer.records import Record, make_record


def hand_out_ours(client: AIOKafkaConsumer) -> None:
    """From now on `client.getmany()` gives `streamer.records.Record`s. To be called once, right after its start."""
    client._fetcher._records = _Fetched(client._fetcher._records)


class _Fetched(dict[ClientPartition, Any]):
    """What was fetched and not handed out, by partition: a FetchResult or an error."""

    def __setitem__(self, name: ClientPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            result._partition_records.__class__ = _OurRecords
        super().__setitem__(name, result)


class _OurRecords(PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of a partition."""

    def __iter__(self) -> Iterator[Record]:
        iterator: Iterator[Record] = self._records_iterator
        return iterator

    def _consumer_record(self, name: ClientPartition, r: Any) -> Record:
        topic, partition = name
        return make_record((topic, partition, r.offset, r.timestamp, r.key, r.value, r.headers))
