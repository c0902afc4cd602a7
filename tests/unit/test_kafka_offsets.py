"""Committed offsets are asked of a group's coordinator until no transaction can change them any more."""

from __future__ import annotations

import asyncio
from collections import deque
from io import BytesIO
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    IncompatibleBrokerVersion,
    NotCoordinatorForGroupError,
)

from streamer.log.base import Committed
from streamer.log.kafka_offsets import Membership, StableOffsetsRequest, commit_offsets, stable_offsets
from streamer.records import TopicPartition

FIRST, SECOND = TopicPartition("in", 0), TopicPartition("in", 1)
UNSTABLE, NOT_COORDINATOR, NOT_AUTHORIZED, UNKNOWN_PARTITION = 88, 16, 30, 3
BROKER = {9: (1, 9)}


def answer(request: StableOffsetsRequest, *found: tuple[int, int, int], code: int = 0) -> Any:
    """What a broker says, over the wire: partition, offset and error of each."""
    response = request.prepare(BROKER).RESPONSE_TYPE
    partitions: list[tuple[Any, ...]] = [
        (number, offset, -1, f"at {offset}", error, {}) for number, offset, error in found
    ]
    return response.decode(BytesIO(response(0, [("in", partitions, {})], code, {}).encode()))


class Coordinator:
    """Gives its answers in turn; what stands for one is its error code."""

    def __init__(self, *answers: tuple[tuple[int, int, int], ...] | int | Exception) -> None:
        self.answers = deque(answers)
        self.looked_for = 0

    async def ensure_coordinator_known(self) -> None:
        self.looked_for += 1

    def coordinator_dead(self) -> None:
        self.looked_for -= 100

    async def _send_req(self, request: StableOffsetsRequest) -> Any:
        said = self.answers.popleft()
        if isinstance(said, Exception):
            raise said
        return answer(request, code=said) if isinstance(said, int) else answer(request, *said)


def asked(*answers: tuple[tuple[int, int, int], ...] | int | Exception) -> dict[TopicPartition, Committed]:
    return asyncio.run(stable_offsets(Coordinator(*answers), "group", [FIRST, SECOND]))


def test_what_is_not_stable_yet_is_asked_for_again() -> None:
    found = asked(((0, 3, 0), (1, -1, UNSTABLE)), ((0, 3, 0), (1, 7, 0)))
    assert found == {FIRST: Committed(3, "at 3"), SECOND: Committed(7, "at 7")}


def test_partitions_without_an_offset_or_without_a_topic_are_left_out() -> None:
    assert asked(((0, -1, 0), (1, -1, UNKNOWN_PARTITION))) == {}


def test_a_coordinator_that_is_none_any_more_is_looked_for_again() -> None:
    coordinator = Coordinator(NOT_COORDINATOR, ((0, 3, 0),))
    assert asyncio.run(stable_offsets(coordinator, "group", [FIRST])) == {FIRST: Committed(3, "at 3")}
    assert coordinator.looked_for == 2 - 100


def test_a_lost_connection_is_tried_again() -> None:
    assert asked(NotCoordinatorForGroupError(), ((0, 3, 0),)) == {FIRST: Committed(3, "at 3")}


def test_a_group_that_may_not_be_read_is_named() -> None:
    with pytest.raises(GroupAuthorizationFailedError, match="group"):
        asked(NOT_AUTHORIZED)


def test_a_broker_before_2_5_is_refused_and_the_version_is_named() -> None:
    with pytest.raises(NotImplementedError):
        StableOffsetsRequest("group", {"in": [0]}).prepare({9: (0, 6)})
    with pytest.raises(IncompatibleBrokerVersion, match=r"Kafka 2\.5"):
        asked(NotImplementedError())


def test_a_later_broker_is_asked_in_the_version_that_we_speak() -> None:
    request = StableOffsetsRequest("group", {"in": [0, 1]}).prepare(BROKER)
    assert (request.API_VERSION, request.FLEXIBLE_VERSION) == (7, True)
    assert request.to_object()["require_stable"] is True


class CommitCoordinator(Coordinator):
    """Takes commits: each answer is an error code for the first partition."""

    def __init__(self, *codes: int) -> None:
        super().__init__(*codes)
        self.asked: list[tuple[object, ...]] = []

    async def _send_req(self, request: Any) -> Any:
        sent = request.prepare({8: (2, 9)})
        self.asked.append((sent.consumer_group_generation_id, sent.consumer_id, sent.topics))
        return sent.RESPONSE_TYPE.decode(
            BytesIO(sent.RESPONSE_TYPE(0, [("in", [(0, self.answers.popleft())])]).encode())
        )


async def test_an_offset_is_committed_for_the_assignment_that_it_was_made_for_however_often_it_is_tried() -> None:
    coordinator = CommitCoordinator(NOT_COORDINATOR, 0)
    await commit_offsets(coordinator, "group", Membership(4, "me"), {FIRST: Committed(9, "root")})
    assert coordinator.asked == [(4, "me", [("in", [(0, 9, "root")])])] * 2


async def test_a_group_that_has_moved_on_refuses_an_offset_at_once() -> None:
    coordinator = CommitCoordinator(IllegalGenerationError.errno)
    with pytest.raises(IllegalGenerationError):
        await commit_offsets(coordinator, "group", Membership(4, "me"), {FIRST: Committed(9, "root")})
    assert len(coordinator.asked) == 1
