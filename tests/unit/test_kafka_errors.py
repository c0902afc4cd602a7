"""What the Kafka client's errors mean to us: which of them are waited for, and which are not."""

from __future__ import annotations

import pytest
from aiokafka import errors as kafka_errors

from streamer.errors import Fenced, LogError, LogFull, LogUnavailable, TopicMissing
from streamer.log.kafka_connection import KafkaOptions, translated, translating

OPTIONS = KafkaOptions(bootstrap_servers="here:1")


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.KafkaConnectionError("cut"),
        kafka_errors.CorrelationIdError("an answer to another question"),
        kafka_errors.CoordinatorLoadInProgressError(),
        kafka_errors.CoordinatorNotAvailableError(),
        kafka_errors.NotCoordinatorError(),
        kafka_errors.NotControllerError(),
        kafka_errors.BrokerNotAvailableError(),
        kafka_errors.ReplicaNotAvailableError(),
        kafka_errors.ConcurrentTransactions(),
        kafka_errors.InvalidTxnState(),
        kafka_errors.InvalidProducerIdMapping(),
        kafka_errors.UnknownProducerId(),
        kafka_errors.OutOfOrderSequenceNumber(),
        kafka_errors.InvalidProducerEpoch(),
        kafka_errors.TransactionCoordinatorFenced(),
        kafka_errors.UnknownError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_by_itself_or_with_a_new_producer_is_waited_for(error: kafka_errors.KafkaError) -> None:
    said = translated(error, OPTIONS, "commit")
    assert isinstance(said, LogUnavailable)
    assert type(error).__name__ in str(said)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (kafka_errors.UnknownTopicOrPartitionError(), TopicMissing),
        (kafka_errors.ProducerFenced(), Fenced),
        (kafka_errors.KafkaStorageError(), LogFull),
        (kafka_errors.InvalidRequestError(), LogError),
    ],
    ids=lambda case: getattr(case, "__name__", type(case).__name__),
)
def test_what_does_not_pass_is_not_waited_for(error: kafka_errors.KafkaError, meaning: type[LogError]) -> None:
    assert type(translated(error, OPTIONS, "commit")) is meaning


def lost_on_the_way() -> None:
    """As the client's sender says that its connection was cut: without a class of its own, twice."""
    try:
        try:
            raise kafka_errors.KafkaConnectionError("cut")
        except kafka_errors.KafkaError as error:
            raise kafka_errors.KafkaError(repr(error)) from error
    except kafka_errors.KafkaError:
        raise kafka_errors.KafkaError("Unexpected error during batch delivery")  # noqa: B904 - as the client does


def test_an_error_that_says_nothing_by_itself_means_what_caused_it() -> None:
    with pytest.raises(LogUnavailable, match="cut"), translating(OPTIONS, "commit"):
        lost_on_the_way()


def test_an_error_that_says_nothing_and_was_caused_by_nothing_is_a_failure() -> None:
    with pytest.raises(LogError, match="odd") as raised, translating(OPTIONS, "commit"):
        raise kafka_errors.KafkaError("odd")
    assert type(raised.value) is LogError
