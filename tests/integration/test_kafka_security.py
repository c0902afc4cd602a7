"""TLS and SASL against a real Apache Kafka: who gets in and can do all that a log does, and what keeps others out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from streamer.cli.main import main
from streamer.errors import ConfigurationError, LogError, LogUnavailable, PermissionDenied, StreamerError
from streamer.log.base import Commit, Committed, TopicSpec
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.kafka_connection import Delivery, SaslMechanism
from streamer.records import Append, TopicPartition
from streamer.testing.kafka_broker import KafkaBroker
from streamer.testing.kafka_properties import SecureListener
from tests.conftest import require_kafka
from tests.integration.log_conformance import Member, everything, plain, turns

pytestmark = pytest.mark.kafka

USER, PASSWORD, WRONG, KEY_PASSWORD = "alice", "hunter2-of-alice", "hunter2-of-nobody", "hunter2-of-the-key"
SCRAM: tuple[SaslMechanism, ...] = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS: tuple[SaslMechanism, ...] = ("PLAIN", *SCRAM)
PATIENCE_S = 5.0
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "1")


def certificates(folder: Path) -> None:
    """An authority and one that nobody knows; a broker's certificate for 127.0.0.1; a client's of either authority."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    for name in ("ca", "stranger"):
        openssl("req", "-x509", *EC, "-noenc", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name, ca, names in (
        ("broker", "ca", "IP:127.0.0.1"),
        ("client", "ca", "DNS:client"),
        ("impostor", "stranger", "DNS:client"),
    ):
        openssl(
            *("req", "-x509", *EC, "-noenc", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-addext", f"subjectAltName={names}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
    openssl("pkey", "-in", "client.key", "-out", "locked.key", "-aes256", "-passout", f"pass:{KEY_PASSWORD}")
    chain = "".join((folder / name).read_text() for name in ("broker.key", "broker.pem", "ca.pem"))
    (folder / "key-and-chain.pem").write_text(chain)
    (folder / "text.pem").write_text("this is no certificate\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates. Skips where openssl is missing; fails instead where `STREAMER_REQUIRE` names kafka."""
    if shutil.which("openssl") is None:
        lacking = "openssl is not installed: apt-get install openssl"
        if "kafka" in os.environ.get("STREAMER_REQUIRE", ""):
            pytest.fail(lacking)
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("certificates")
    certificates(folder)
    return folder


@dataclass(frozen=True)
class Cluster:
    """A broker with secure listeners, and how to come to each as one should."""

    broker: KafkaBroker
    files: Path

    def open(self) -> KafkaOptions:
        """The listener without security."""
        return KafkaOptions(bootstrap_servers=self.broker.bootstrap, request_timeout_s=PATIENCE_S)

    def tls(self) -> KafkaOptions:
        """TLS; the client shows nothing."""
        return self._at("TLS", security_protocol="SSL", ssl_ca_file=self.files / "ca.pem")

    def mutual(self) -> KafkaOptions:
        """TLS where the client must show a certificate; its key is encrypted."""
        certificate, key = self.files / "client.pem", self.files / "locked.key"
        shown = replace(self.tls(), ssl_cert_file=certificate, ssl_key_file=key, ssl_key_password=KEY_PASSWORD)
        return replace(shown, bootstrap_servers=self.broker.secure_bootstrap("MUTUAL"))

    def sasl_tls(self, mechanism: SaslMechanism = "SCRAM-SHA-512") -> KafkaOptions:
        """User and password inside TLS."""
        ca = self.files / "ca.pem"
        return self._at("SASL_TLS", security_protocol="SASL_SSL", ssl_ca_file=ca, **_user(mechanism))

    def sasl(self) -> KafkaOptions:
        """User and password in the clear, by PLAIN only."""
        return self._at("SASL", security_protocol="SASL_PLAINTEXT", **_user("PLAIN"))

    def _at(self, listener: str, **how: Any) -> KafkaOptions:
        return replace(self.open(), bootstrap_servers=self.broker.secure_bootstrap(listener), **how)


def _user(mechanism: SaslMechanism) -> dict[str, Any]:
    return {"sasl_mechanism": mechanism, "sasl_username": USER, "sasl_password": PASSWORD}


@pytest.fixture(scope="module")
def cluster(files: Path) -> Iterator[Cluster]:
    """One broker with all listeners, for this file."""
    require_kafka()
    key_and_chain, users = files / "key-and-chain.pem", {USER: PASSWORD}
    secure = {
        "TLS": SecureListener("SSL", key_and_chain=key_and_chain),
        "MUTUAL": SecureListener("SSL", key_and_chain=key_and_chain, client_ca=files / "ca.pem"),
        "SASL_TLS": SecureListener("SASL_SSL", users, MECHANISMS, key_and_chain),
        "SASL": SecureListener("SASL_PLAINTEXT", users, ["PLAIN"]),
    }
    with KafkaBroker(secure=secure) as broker:
        yield Cluster(broker, files)


WAYS: dict[str, Callable[[Cluster], KafkaOptions]] = {
    "TLS": Cluster.tls,
    "TLS with a client certificate": Cluster.mutual,
    "TLS and PLAIN": lambda c: c.sasl_tls("PLAIN"),
    "TLS and SCRAM-SHA-256": lambda c: c.sasl_tls("SCRAM-SHA-256"),
    "TLS and SCRAM-SHA-512": lambda c: c.sasl_tls("SCRAM-SHA-512"),
    "PLAIN in the clear": Cluster.sasl,
}


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("way", WAYS)
async def test_whoever_gets_in_can_append_read_and_commit(cluster: Cluster, way: str, delivery: Delivery) -> None:
    topic, output = (f"{role}-{uuid.uuid4().hex[:8]}" for role in ("input", "output"))
    partition = TopicPartition(topic, 0)
    options = replace(WAYS[way](cluster), delivery=delivery)
    async with KafkaLog(options) as log, KafkaLog(replace(cluster.open(), delivery=delivery)) as another:
        await log.create_topics([TopicSpec(topic, 1), TopicSpec(output, 1)])
        await log.append(topic, 0, plain([b"a", b"b"]))
        async with log.consumer(f"group-{topic}", [topic]) as consumer:
            member = Member(consumer)
            await turns(member, until=lambda: len(member.records) == 2)
            outputs = [Append(output, 0, plain([b"A", b"B"]))]
            await consumer.commit([Commit(partition, 2, "what was done", outputs=outputs)])
        async with another.consumer(f"group-{topic}", [topic]) as consumer:
            heir = Member(consumer)
            await turns(heir, until=lambda: bool(heir.owned))
            assert await consumer.committed(partition) == Committed(2, "what was done")
        assert member.values() == [b"a", b"b"]
        assert [record.value for record in await everything(log, TopicPartition(output, 0))] == [b"A", b"B"]


class Refused(NamedTuple):
    """A way that does not lead in: the class of the error and what must stand in its message."""

    way: Callable[[Cluster], KafkaOptions]
    error: type[StreamerError]
    says: str


def _wrong_password(mechanism: SaslMechanism) -> Refused:
    return Refused(
        lambda c: replace(c.sasl_tls(mechanism), sasl_password=WRONG),
        PermissionDenied,
        "does not let alice in .*check user, password",
    )


def _unknown_user(mechanism: SaslMechanism) -> Refused:
    return Refused(
        lambda c: replace(c.sasl_tls(mechanism), sasl_username="mallory"),
        PermissionDenied,
        "does not let mallory in .*check user, password",
    )


def _elsewhere(options: KafkaOptions, other: KafkaOptions) -> KafkaOptions:
    """To the listener of `other` as one should come to that of `options`."""
    return replace(options, bootstrap_servers=other.bootstrap_servers)


REFUSED: dict[str, Refused] = {
    **{f"a wrong password by {mechanism}": _wrong_password(mechanism) for mechanism in MECHANISMS},
    **{f"an unknown user by {mechanism}": _unknown_user(mechanism) for mechanism in MECHANISMS},
    "a mechanism the listener does not take": Refused(
        lambda c: replace(c.sasl(), sasl_mechanism="SCRAM-SHA-256"),
        LogError,
        "does not take SCRAM-SHA-256 .*choose another",
    ),
    "an authority that has not signed": Refused(
        lambda c: replace(c.tls(), ssl_ca_file=c.files / "stranger.pem"),
        LogError,
        r"cannot be trusted by .*stranger\.pem .*give the CA file",
    ),
    "the system's authorities": Refused(
        lambda c: replace(c.sasl_tls(), ssl_ca_file=None),
        LogError,
        "cannot be trusted by the system's authorities .*give the CA file",
    ),
    "a host name that the certificate does not bear": Refused(
        lambda c: replace(c.tls(), bootstrap_servers=c.tls().bootstrap_servers.replace("127.0.0.1", "localhost")),
        LogError,
        "certificate for other names .*not valid for 'localhost'.*connect by a name",
    ),
    "no client certificate": Refused(
        lambda c: _elsewhere(c.tls(), c.mutual()),
        PermissionDenied,
        "no client certificate .*give a client certificate",
    ),
    "a client certificate of a stranger": Refused(
        lambda c: replace(c.mutual(), ssl_cert_file=c.files / "impostor.pem", ssl_key_file=c.files / "impostor.key"),
        PermissionDenied,
        r"impostor\.pem .*give a client certificate that its CA has signed",
    ),
    "TLS to a listener in the clear": Refused(
        lambda c: _elsewhere(c.tls(), c.open()), LogUnavailable, "that this listener speaks SSL"
    ),
    "in the clear to a listener of TLS": Refused(
        lambda c: _elsewhere(c.open(), c.tls()), LogUnavailable, "that this listener speaks PLAINTEXT"
    ),
    "without a password to a listener that asks for one": Refused(
        lambda c: _elsewhere(c.tls(), c.sasl_tls()), LogUnavailable, "that this listener speaks SSL"
    ),
    "a password to a listener that asks for none": Refused(
        lambda c: _elsewhere(c.sasl(), c.open()), LogError, "asks nobody for a password .*not SASL_PLAINTEXT"
    ),
    "a password in the clear to a listener of TLS": Refused(
        lambda c: _elsewhere(c.sasl(), c.sasl_tls()), LogUnavailable, "that this listener speaks SASL_PLAINTEXT"
    ),
}


async def refusal(options: KafkaOptions) -> StreamerError:
    """The error of a log that cannot be opened, which must come within the request timeout."""
    with pytest.raises(StreamerError) as raised:
        async with asyncio.timeout(options.request_timeout_s), KafkaLog(options):
            pytest.fail("it was let in")
    return raised.value


@pytest.mark.parametrize("case", REFUSED)
async def test_who_comes_wrongly_is_told_within_the_request_timeout_what_to_mend(cluster: Cluster, case: str) -> None:
    way, kind, says = REFUSED[case]
    options = way(cluster)
    error = await refusal(options)
    assert type(error) is kind
    assert re.search(rf"^Kafka at {options.bootstrap_servers} .*{says}", str(error))
    assert "hunter2" not in str(error)


async def test_where_the_clients_log_is_silenced_the_suspects_are_named(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="aiokafka")
    error = await refusal(replace(cluster.sasl_tls(), sasl_password=WRONG))
    assert type(error) is LogUnavailable
    assert re.search("listener speaks SASL_SSL, .*client certificate and user and password", str(error))


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
async def test_a_port_that_never_answers_is_given_up_after_the_request_timeout(protocol: str, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        tls = protocol == "SSL"
        options = KafkaOptions(bootstrap_servers=address, request_timeout_s=0.5)
        if tls:
            options = replace(options, security_protocol="SSL", ssl_ca_file=files / "ca.pem")
        with pytest.raises(LogUnavailable, match=rf"{address}.*TimeoutError.*that this listener speaks {protocol}"):
            async with asyncio.timeout(PATIENCE_S), KafkaLog(options):
                pytest.fail("nobody answers there")


UNUSABLE: dict[str, tuple[dict[str, str | None], str]] = {
    "no CA file": ({"ssl_ca_file": "absent.pem"}, r"CA file .*absent\.pem .*cannot be read: No such file"),
    "a CA file that is none": ({"ssl_ca_file": "text.pem"}, r"CA file .*text\.pem .*is no PEM file"),
    "no certificate": ({"ssl_cert_file": "absent.pem"}, r"client certificate .*absent\.pem .*No such file"),
    "a certificate that is none": ({"ssl_cert_file": "text.pem"}, r"text\.pem and its key .*must be PEM files"),
    "no key": ({"ssl_key_file": "absent.key"}, r"client key .*absent\.key .*No such file"),
    "the key of another": ({"ssl_key_file": "impostor.key"}, r"impostor\.key .*belong together"),
    "a key that is none": ({"ssl_key_file": "text.pem"}, r"text\.pem .*must be PEM files"),
    "a folder": ({"ssl_key_file": "."}, "client key .*Is a directory"),
    "a key without its certificate": ({"ssl_cert_file": None}, r"client key .*locked\.key .*without a certificate"),
    "a wrong password of the key": ({"ssl_key_password": WRONG}, r"locked\.key .*password must be right"),
    "no password of the key": ({"ssl_key_password": None}, r"locked\.key .*is encrypted: give its password"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_certificate_that_cannot_be_used_is_named_before_anything_is_opened(files: Path, case: str) -> None:
    change, says = UNUSABLE[case]
    good = {"ssl_ca_file": "ca.pem", "ssl_cert_file": "client.pem", "ssl_key_file": "locked.key"}
    paths = {name: path and files / path for name, path in (good | change).items() if name != "ssl_key_password"}
    password = {"ssl_key_password": change.get("ssl_key_password", KEY_PASSWORD)}
    options = KafkaOptions(security_protocol="SSL", **paths, **password)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=says) as raised:
        options.connection()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("missing", "word"), [("sasl_username", "user"), ("sasl_password", "password")])
async def test_without_user_or_password_nothing_is_opened(mechanism: SaslMechanism, missing: str, word: str) -> None:
    options = KafkaOptions(security_protocol="SASL_PLAINTEXT", **_user(mechanism) | {missing: None})
    with pytest.raises(ConfigurationError, match=rf"SASL_PLAINTEXT .*needs a {word}"):
        async with KafkaLog(options):
            pytest.fail("who is it?")


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_not_even_the_clients_most_talkative_log_says_a_password(
    cluster: Cluster, mechanism: SaslMechanism, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with KafkaLog(cluster.sasl_tls(mechanism)) as log:
        await log.topics()
    await refusal(replace(cluster.sasl_tls(mechanism), sasl_password=WRONG))
    assert "SaslHandShakeRequest" in caplog.text
    assert "hunter2" not in caplog.text
    assert "SaslAuthenticate" not in caplog.text  # of a SCRAM exchange a password can be guessed


def settings_file(cluster: Cluster, folder: Path) -> Path:
    """What a user would write; the secrets are left to the environment."""
    options = cluster.mutual()
    kafka = {
        "kind": "kafka",
        "bootstrap_servers": options.bootstrap_servers,
        "security_protocol": "SSL",
        "ssl_cafile": str(options.ssl_ca_file),
        "ssl_certfile": str(options.ssl_cert_file),
        "ssl_keyfile": str(options.ssl_key_file),
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({"application": f"app-{uuid.uuid4().hex[:8]}", "log": kafka}), encoding="utf-8")
    return path


def test_a_settings_file_and_a_secret_of_the_environment_lead_in(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_LOG__SSL_KEY_PASSWORD", KEY_PASSWORD)
    assert main(["topics", "--config", str(settings_file(cluster, tmp_path))]) == 0
    said = capsys.readouterr()
    assert "audio" in said.out
    assert "hunter2" not in said.out + said.err


def test_a_command_that_is_not_let_in_says_one_line_and_no_traceback(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(settings_file(cluster, tmp_path))
    monkeypatch.setenv("STREAMER_LOG__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("STREAMER_LOG__SSL_KEY_PASSWORD", KEY_PASSWORD)
    monkeypatch.setenv("STREAMER_LOG__BOOTSTRAP_SERVERS", cluster.sasl_tls().bootstrap_servers)
    monkeypatch.setenv("STREAMER_LOG__USERNAME", USER)
    monkeypatch.setenv("STREAMER_LOG__PASSWORD", WRONG)
    assert main(["topics", "--config", config]) == 1
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("streamer: ")]
    assert "does not let alice in" in line
    assert "Traceback" not in said.err
    assert "hunter2" not in said.out + said.err
