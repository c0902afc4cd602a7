"""How to reach a Kafka cluster, and what its client's errors mean in our words. Opens nothing."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiokafka import errors as kafka_errors

from streamer.errors import (
    ConfigurationError,
    Fenced,
    LogError,
    LogFull,
    LogUnavailable,
    OffsetGone,
    PermissionDenied,
    RecordTooLarge,
    TopicMissing,
)

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["gzip", "snappy", "lz4", "zstd"]
Delivery = Literal["at_least_once", "exactly_once"]

# 100 ms by default, which every retry of a rebalance or a transaction would wait.
RETRY_BACKOFF_MS = 5

_DENIED = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
)
_FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalStateError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.ProducerFenced,
)
_UNAVAILABLE = (
    TimeoutError,
    ConnectionError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.KafkaTimeoutError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.NoBrokersAvailable,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NotLeaderForPartitionError,
    kafka_errors.NotEnoughReplicasError,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.NotCoordinatorForGroupError,
    kafka_errors.StaleMetadata,
    kafka_errors.ProducerClosed,
)
_TOO_LARGE = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.RecordTooLargeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Where the cluster is, who we are, and how patient.

    bootstrap_servers: `host:port`, several separated by commas. session_timeout_s: a member silent for so long loses
    its partitions. rebalance_timeout_s: how long the group waits for members to rejoin; a fifth of it is what a revoked
    partition may take to settle. request_timeout_s: appends, commits and questions retry this long, then
    LogUnavailable. replication_factor: of topics created, -1 for the brokers' default. ssl_*_file: PEM files.
    group_instance_id: a name of this process in its groups that stays the same over restarts (KIP-345): whoever comes
    back within the session timeout gets its partitions back, and the others are not disturbed; None for none.
    delivery: of a worker's commits; `exactly_once` puts each into one transaction, which costs some milliseconds more.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    client_id: str = "streamer"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_file: Path | None = None
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    request_timeout_s: float = 20.0
    session_timeout_s: float = 10.0
    heartbeat_interval_s: float = 1.0  # also how soon a member learns of a rebalance
    rebalance_timeout_s: float = 30.0
    compression: Compression | None = None
    replication_factor: int = -1
    partition_fetch_bytes: int = 2 * 1024 * 1024
    group_instance_id: str | None = None
    delivery: Delivery = "at_least_once"

    @property
    def settle_timeout_s(self) -> float:
        """A fifth of the rebalance timeout (DESIGN.md rule 8)."""
        return self.rebalance_timeout_s / 5

    def connection(self) -> dict[str, Any]:
        """The arguments every client takes. Raises ConfigurationError for certificates that cannot be read."""
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": self.client_id,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_context": self._ssl_context(),
        }

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self.security_protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
            if self.ssl_cert_file is not None:
                context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file, self.ssl_key_password)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(f) for f in (self.ssl_ca_file, self.ssl_cert_file, self.ssl_key_file) if f)
            raise ConfigurationError(f"the TLS files for Kafka ({files}) cannot be used: {error}") from error
        return context


@contextmanager
def translating(options: KafkaOptions, doing: str) -> Iterator[None]:
    """Raise the client's errors as ours. doing: what is being done to what, e.g. "append to topic 'audio'"."""
    try:
        yield
    except (kafka_errors.KafkaError, TimeoutError, ConnectionError) as error:
        raise translated(error, options, doing) from error


def translated(error: BaseException, options: KafkaOptions, doing: str) -> LogError:
    """The client's error as ours: what, where and how to mend it."""
    where = f"Kafka at {options.bootstrap_servers}"
    detail = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, _DENIED):
        user = options.sasl_username or "this user"
        return PermissionDenied(f"{where} does not let {user} {doing} ({detail}): ask for an access rule for it")
    if isinstance(error, _FENCED):
        return Fenced(f"{doing}: the group has moved on ({detail}): drop the state of its partitions")
    if isinstance(error, _TOO_LARGE):
        return RecordTooLarge(f"{doing}: {where} takes no record this large ({detail}): raise max.message.bytes")
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return TopicMissing(f"{where} has no topic or partition to {doing} ({detail}): create it first")
    if isinstance(error, kafka_errors.OffsetOutOfRangeError):
        return OffsetGone(f"{where} no longer keeps what was asked for: {doing} ({detail}): start from a kept offset")
    if isinstance(error, kafka_errors.KafkaStorageError):
        return LogFull(f"{where} cannot write ({detail}): look at the disks of its brokers")
    if isinstance(error, _UNAVAILABLE):
        return LogUnavailable(
            f"{where} cannot be reached to {doing} ({detail}): check the address, that a broker runs there "
            "(`make kafka` starts one), and user and password"
        )
    return LogError(f"{where}: {doing}: {detail}")
