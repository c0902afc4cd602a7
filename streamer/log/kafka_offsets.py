"""A group's committed offsets: written for one assignment only, and read so that the answer is final.

The client commits with the generation that it has when it sends; if it has joined anew meanwhile and was given the same
partition, what was made for the old assignment would count for the new one. Here the generation is the caller's.

They are read with `require_stable` of KIP-447: a transaction is answered before its offsets are in the group's books,
and another owner's may still be open. A plain OffsetFetch gives the offset before it then; asked for what is stable,
the broker says "not yet" instead, and is asked again. aiokafka 0.14 ends at version 3 of that request; this is version
7, which brokers since Kafka 2.5 know.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streamer.log.base import Committed
from streamer.records import TopicPartition

_UNSTABLE = 88
"""UNSTABLE_OFFSET_COMMIT, which the client has no name for."""
_NONE = -1
_WAIT_S = 0.005


class _Response(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _Struct(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetsRequest(Request[_Struct]):  # type: ignore[misc]
    """The offsets that `group` has committed for good. partitions: numbers by topic."""

    API_KEY = 9

    def __init__(self, group: str, partitions: dict[str, list[int]]) -> None:
        self._group = group
        self._topics: list[tuple[str, list[int], dict[int, bytes]]] = [
            (topic, numbers, {}) for topic, numbers in partitions.items()
        ]

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        """For the connection."""
        return request_struct_class(self._group, self._topics, True, {})


async def stable_offsets(
    coordinator: Any, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, Committed]:
    """Positions and metadata that no transaction can change any more; partitions without are left out.

    coordinator: the client's, of a member of the group. Waits as long as a transaction is open or on its way into the
    group's books: the caller limits that. Raises the client's errors.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for topic, number in partitions:
        numbers[topic].append(number)
    while partitions:
        await coordinator.ensure_coordinator_known()
        try:
            return _found(await _asked(coordinator, StableOffsetsRequest(group, numbers)), group)
        except _Unstable:
            pass
        except KafkaError as error:
            _look_again(coordinator, error)
        await asyncio.sleep(_WAIT_S)
    return {}


class Membership(NamedTuple):
    """A member of a group as of one assignment."""

    generation: int
    member: str


async def commit_offsets(
    coordinator: Any, group: str, membership: Membership, offsets: Mapping[TopicPartition, Committed]
) -> None:
    """Commit as the member that got these partitions. The caller limits how long it is tried.

    Raises the client's errors: IllegalGenerationError, UnknownMemberIdError, RebalanceInProgressError where the group
    has moved on; then nothing was committed.
    """
    topics: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for (topic, number), (offset, metadata) in offsets.items():
        topics[topic].append((number, offset, metadata))
    request = OffsetCommitRequest(group, *membership, OffsetCommitRequest.DEFAULT_RETENTION_TIME, list(topics.items()))
    while True:
        await coordinator.ensure_coordinator_known()
        try:
            response = await coordinator._send_req(request)
            for _, partitions in response.topics:
                for _, code in partitions:
                    _check(code, group)
            return
        except KafkaError as error:
            _look_again(coordinator, error)
        await asyncio.sleep(_WAIT_S)


def _look_again(coordinator: Any, error: KafkaError) -> None:
    """Raises an error that trying again does not mend."""
    if not error.retriable:
        raise error
    if isinstance(error, NotCoordinatorForGroupError):
        coordinator.coordinator_dead()


class _Unstable(Exception):
    """A transaction of this group is not in its books yet."""


async def _asked(coordinator: Any, request: StableOffsetsRequest) -> Any:
    try:
        return await coordinator._send_req(request)
    except NotImplementedError as error:  # how the client says that no version of a request is known to both
        raise IncompatibleBrokerVersion("committed offsets can only be read from Kafka 2.5 or later") from error


def _found(response: Any, group: str) -> dict[TopicPartition, Committed]:
    _check(response.error_code, group)
    found: dict[TopicPartition, Committed] = {}
    for topic, partitions, _ in response.topics:
        for number, offset, _, metadata, code, _ in partitions:
            if for_code(code) is UnknownTopicOrPartitionError:
                continue
            _check(code, group)
            if offset != _NONE:
                found[TopicPartition(topic, number)] = Committed(offset, metadata or "")
    return found


def _check(code: int, group: str) -> None:
    if code == _UNSTABLE:
        raise _Unstable
    if code:
        error = for_code(code)
        raise error(group) if error is GroupAuthorizationFailedError else error()
