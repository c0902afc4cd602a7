"""What a local broker's `server.properties` says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_PROTOCOLS = {
    "CONTROLLER": "PLAINTEXT",
    "PLAINTEXT": "PLAINTEXT",
    "BEHIND": "PLAINTEXT",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
}
_SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_JAAS = "org.apache.kafka.common.security"
_HOST = "127.0.0.1"

_PROPERTIES = """
process.roles=broker,controller
node.id={node}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false
num.partitions=1
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""

# Retention and compaction within a second instead of minutes.
_EAGER_PROPERTIES = """
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=500
log.initial.task.delay.ms=500
log.roll.ms=500
log.cleaner.backoff.ms=200
log.cleaner.min.cleanable.ratio=0.01
log.cleaner.dedupe.buffer.size=8388608
"""

# Users come in through SASL_PLAINTEXT and may do nothing unless an ACL says so; PLAINTEXT may do everything.
_ACL_PROPERTIES = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required {users};
"""

# A dead broker is noticed in seconds; a lone one would only fence itself where the machine is busy.
_CLUSTER_PROPERTIES = """
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


@dataclass(frozen=True)
class SecureListener:
    """One more port of a broker: with TLS, with user and password, or both. Whoever gets in may do everything.

    users: names with their passwords. mechanisms: by which they may come.
    key_and_chain: a PEM file with the broker's unencrypted PKCS #8 key, its certificate and those that signed it.
    client_ca: a PEM file; when given, clients must show a certificate that it signed.
    """

    protocol: Literal["SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    mechanisms: Sequence[str] = ("PLAIN", *_SCRAM)
    key_and_chain: Path | None = None
    client_ca: Path | None = None

    def properties(self, name: str) -> str:
        """What `server.properties` says of a listener of this name."""
        lines: dict[str, object] = {}
        if self.users:
            users = " ".join(f'user_{user}="{password}"' for user, password in self.users.items())
            lines["sasl.enabled.mechanisms"] = ",".join(self.mechanisms)
            lines["plain.sasl.jaas.config"] = f"{_JAAS}.plain.PlainLoginModule required {users};"
            for mechanism in _SCRAM:
                lines[f"{mechanism.lower()}.sasl.jaas.config"] = f"{_JAAS}.scram.ScramLoginModule required;"
        if self.key_and_chain is not None:
            lines |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": self.key_and_chain}
        if self.client_ca is not None:
            lines |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": self.client_ca}
            lines["ssl.client.auth"] = "required"
        return "".join(f"listener.name.{name.lower()}.{key}={value}\n" for key, value in lines.items())

    def scram(self) -> list[str]:
        """What creates the users for SCRAM when a broker's folder is formatted."""
        users = self.users.items()
        return [f"--add-scram={how}=[name={user},password={word}]" for how in _SCRAM for user, word in users]


@dataclass(frozen=True)
class Seat:
    """A broker's place in a cluster. node: its number. controllers: every node's port. cluster: the cluster's id."""

    node: int
    controllers: Mapping[int, int]
    cluster: str


def server_properties(
    seat: Seat,
    ports: Mapping[str, int],
    folder: Path,
    *,
    told: Mapping[str, int],
    users: Mapping[str, str],
    secure: Mapping[str, SecureListener],
    eager: bool,
) -> str:
    """The text of the file.

    ports: by listener. folder: of the data. told: ports that clients are given instead of a listener's own.
    users, secure, eager: as the broker was asked for.
    """
    nodes = len(seat.controllers)
    text = _PROPERTIES.format(node=seat.node, replicas=nodes, in_sync=min(2, nodes))
    text += _CLUSTER_PROPERTIES if nodes > 1 else ""
    text += _EAGER_PROPERTIES if eager else ""
    if users:
        text += _ACL_PROPERTIES.format(users=" ".join(f'user_{name}="{word}"' for name, word in users.items()))
    text += "".join(listener.properties(name) for name, listener in secure.items())
    protocols = _PROTOCOLS | {name: listener.protocol for name, listener in secure.items()}
    voters = ",".join(f"{node}@{_HOST}:{port}" for node, port in seat.controllers.items())
    return text + "".join(
        f"{name}={value}\n"
        for name, value in {
            "listener.security.protocol.map": ",".join(map(":".join, protocols.items())),
            "controller.quorum.voters": voters,
            "listeners": f"{_addresses(ports)},CONTROLLER://{_HOST}:{seat.controllers[seat.node]}",
            "advertised.listeners": _addresses({**ports, **told}),
            "log.dirs": folder,
        }.items()
    )


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{_HOST}:{port}" for name, port in ports.items())
