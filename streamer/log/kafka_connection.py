"""How to reach a Kafka cluster, and what its client's errors mean in our words. Opens nothing.

Why a connection failed the client says in its log only, so that log is listened to here. It would also write
passwords there, at DEBUG: those lines are dropped.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

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
)
_NOT_LET_IN = (kafka_errors.AuthenticationFailedError, kafka_errors.SaslAuthenticationFailed)
_OTHER_NAMES = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
_SAID_WITH_SECRETS = "SaslAuthenticate"  # the client's classes of requests and answers that carry a password or proof
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
    kafka_errors.CorrelationIdError,
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.NotControllerError,
    kafka_errors.BrokerNotAvailableError,
    kafka_errors.ReplicaNotAvailableError,
    kafka_errors.UnknownError,  # "unexpected": brokers that come and go say this too
)
# Cluster and producer disagree about what the producer did, as after a change of leaders. A new one begins afresh.
_PRODUCER_LOST = (
    kafka_errors.ConcurrentTransactions,
    kafka_errors.InvalidTxnState,
    kafka_errors.InvalidProducerIdMapping,
    kafka_errors.UnknownProducerId,
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.TransactionCoordinatorFenced,
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
    LogUnavailable. replication_factor: of topics created, -1 for the brokers' default. ssl_*_file: PEM files; without
    ssl_ca_file the system's authorities are trusted, without ssl_key_file the key stands in ssl_cert_file.
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
        """The arguments every client takes. Raises ConfigurationError: certificates of no use, no user or password."""
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            lacking = "password" if self.sasl_username else "user"
            raise ConfigurationError(f"{self.security_protocol} to Kafka at {self.bootstrap_servers} needs a {lacking}")
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": self.client_id,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_context": self._ssl_context() if self.security_protocol.endswith("SSL") else None,
        }

    def _ssl_context(self) -> ssl.SSLContext:
        _check_readable("CA file", self.ssl_ca_file)
        _check_readable("client certificate", self.ssl_cert_file)
        _check_readable("client key", self.ssl_key_file)
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
        except ssl.SSLError as error:
            raise ConfigurationError(f"the CA file {self.ssl_ca_file} for Kafka is no PEM file: {error}") from error
        context.sslobject_class = _Departing
        if self.ssl_cert_file is not None:
            try:
                # Asked only for a key that is encrypted; without an answer OpenSSL would ask at the terminal.
                password = self.ssl_key_password or self._key_is_locked
                context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file, password)
            except (ssl.SSLError, ValueError) as error:
                files = " and its key ".join(str(f) for f in (self.ssl_cert_file, self.ssl_key_file) if f)
                raise ConfigurationError(
                    f"the client certificate {files} for Kafka cannot be used ({error}): they must be PEM files that "
                    "belong together, and the key's password must be right"
                ) from error
        elif self.ssl_key_file is not None:
            raise ConfigurationError(f"the client key {self.ssl_key_file} for Kafka is of no use without a certificate")
        return context

    def _key_is_locked(self) -> NoReturn:
        key = self.ssl_key_file or self.ssl_cert_file
        raise ConfigurationError(f"the client key {key} for Kafka is encrypted: give its password")


class _Departing(ssl.SSLObject):
    """Says good-bye without waiting for the broker's, which TLS does not ask for (RFC 5246, 7.2.1; RFC 8446, 6.1).

    A broker that still holds a fetch would let us wait half a second, and the client does not wait: a loop that ends
    at once would leave the connection open.
    """

    def unwrap(self) -> None:
        with suppress(ssl.SSLWantReadError):
            super().unwrap()


def _check_readable(what: str, path: Path | None) -> None:
    """Raises ConfigurationError. OpenSSL would not say which file it misses."""
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"the {what} {path} for Kafka cannot be read: {error.strerror}") from error


@dataclass(slots=True)
class _Heard:
    """Why the client could not connect, as it last said while something was being done."""

    error: BaseException | None = None
    listening: bool = True  # the client's own tasks inherit this and live longer


_heard: ContextVar[_Heard | None] = ContextVar("why the Kafka client could not connect", default=None)


class _ClientLog(logging.Filter):
    """Listens to the client's log and keeps secrets out of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.args if isinstance(record.args, tuple) else ()
        heard = _heard.get()
        if heard is not None and heard.listening and record.levelno >= logging.WARNING:
            heard.error = next((part for part in said if isinstance(part, BaseException)), heard.error)
        return not any(type(part).__name__.startswith(_SAID_WITH_SECRETS) for part in said)


for _name in ("aiokafka", "aiokafka.conn"):
    logging.getLogger(_name).addFilter(_ClientLog())


@contextmanager
def translating(options: KafkaOptions, doing: str) -> Iterator[None]:
    """Raise the client's errors as ours. doing: what is being done to what, e.g. "append to topic 'audio'"."""
    before, heard = _heard.get(), _Heard()
    _heard.set(heard)
    try:
        yield
    except (kafka_errors.KafkaError, TimeoutError, ConnectionError) as error:
        raise translated(error, options, doing, heard.error) from error
    finally:
        heard.listening = False
        _heard.set(before)


def translated(error: BaseException, options: KafkaOptions, doing: str, heard: BaseException | None = None) -> LogError:
    """The client's error as ours: what, where and how to mend it. heard: what the client said when it gave up."""
    error = _cause(error)
    where = f"Kafka at {options.bootstrap_servers}"
    unavailable = isinstance(error, _UNAVAILABLE)
    reason = heard if unavailable and heard is not None else error
    if refusal := _refusal(reason, options):
        return refusal
    detail = _detail(reason)
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
    if isinstance(error, _PRODUCER_LOST):
        return LogUnavailable(f"{where} has lost track of a producer that was to {doing} ({detail}): try again")
    if unavailable:
        return LogUnavailable(f"{where} cannot be reached to {doing} ({detail}): check {_suspects(options)}")
    return LogError(f"{where}: {doing}: {detail}")


def _cause(error: BaseException) -> BaseException:
    """The client's sender ends by an error that has no class of its own; what it met lies behind it."""
    while type(error) is kafka_errors.KafkaError and (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return error


def _refusal(reason: BaseException, options: KafkaOptions) -> LogError | None:
    """What TLS or SASL have against each other's sides; None for anything else."""
    where, detail = f"Kafka at {options.bootstrap_servers}", _detail(reason)
    tls = reason if isinstance(reason, ssl.SSLError) else reason.__cause__
    if isinstance(reason, _NOT_LET_IN):
        return PermissionDenied(
            f"{where} does not let {options.sasl_username} in ({detail}): check user, password and SASL mechanism"
        )
    if isinstance(reason, kafka_errors.UnsupportedSaslMechanismError):
        return LogError(f"{where} does not take {options.sasl_mechanism} ({detail}): choose another SASL mechanism")
    if isinstance(reason, kafka_errors.IllegalSaslStateError):
        return LogError(
            f"{where} asks nobody for a password ({detail}): the security protocol of this listener is not "
            f"{options.security_protocol}"
        )
    if isinstance(tls, ssl.SSLCertVerificationError):
        if tls.verify_code in _OTHER_NAMES:
            return LogError(f"{where} has a certificate for other names ({detail}): connect by a name that is in it")
        trusted = options.ssl_ca_file or "the system's authorities"
        return LogError(
            f"{where} has a certificate that cannot be trusted by {trusted} ({detail}): give the CA file that has "
            "signed it, and look at its dates"
        )
    if isinstance(tls, ssl.SSLError) and "alert" in str(tls) and "certificate" in str(tls):
        mine = options.ssl_cert_file or "no client certificate"
        return PermissionDenied(
            f"{where} was shown {mine} and closed ({_detail(tls)}): give a client certificate that its CA has signed"
        )
    return None


def _suspects(options: KafkaOptions) -> str:
    """What to look at when a connection fails and nobody says why."""
    suspects = ["the address", "that a broker runs there (`make kafka` starts one)"]
    suspects.append(f"that this listener speaks {options.security_protocol}")
    if options.security_protocol.endswith("SSL") and options.ssl_cert_file is None:
        suspects.append("whether it asks for a client certificate")
    if options.security_protocol.startswith("SASL"):
        suspects.append("user and password")
    return f"{', '.join(suspects[:-1])} and {suspects[-1]}"


def _detail(error: BaseException) -> str:
    name, text = type(error).__name__, str(error)
    return text if name in text else f"{name}: {text}".rstrip(": ")
