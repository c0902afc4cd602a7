"""Fixtures shared by all tests: a real Apache Kafka, started once by the test run itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streamer.testing.kafka_broker import KafkaBroker, missing_tools

KAFKA_USER, KAFKA_PASSWORD = "guest", "guest-password"


def require_kafka() -> None:
    """Skip where Java or Maven are missing; fail instead where `STREAMER_REQUIRE` names kafka."""
    if lacking := missing_tools():
        if "kafka" in os.environ.get("STREAMER_REQUIRE", ""):
            pytest.fail(lacking)
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """A broker for the whole run. Its second listener knows one user, who may do nothing without an access rule."""
    require_kafka()
    with KafkaBroker(eager=True, users={KAFKA_USER: KAFKA_PASSWORD}) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(kafka_broker: KafkaBroker) -> str:
    """The bootstrap address of a real Apache Kafka without security."""
    return kafka_broker.bootstrap
