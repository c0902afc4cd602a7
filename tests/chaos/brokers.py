"""Brokers that are restarted, killed, stopped and away for a while; and a cluster of three that loses one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamer.testing.kafka_broker import KafkaBroker
from streamer.testing.kafka_cluster import KafkaCluster
from tests.chaos.outside import ANSWER_S
from tests.chaos.stage import Stage

MOST_STILL_S = 10.0


class Lone(NamedTuple):
    """One broker, without a proxy."""

    broker: KafkaBroker

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    @property
    def direct(self) -> str:
        return self.broker.bootstrap


class Several(NamedTuple):
    """A cluster, without proxies."""

    cluster: KafkaCluster

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    @property
    def direct(self) -> str:
        return self.cluster.bootstrap


Kind = Literal[
    "the broker is restarted",
    "the broker is killed and started",
    "the broker stands still",
    "the broker is killed and away for a while",
]
KINDS: Sequence[Kind] = (
    "the broker is restarted",
    "the broker is killed and started",
    "the broker stands still",
    "the broker is killed and away for a while",
)


def restarts(broker: KafkaBroker, *, away_s: float) -> Callable[[Stage], None]:
    """Each of `KINDS` in turns."""

    def act(stage: Stage) -> None:
        turns = 0
        while turns < len(KINDS) or not stage.over:
            stage.live(stage.draw.uniform(1.0, 4.0))
            strike(stage, broker, KINDS[turns % len(KINDS)], away_s)
            turns += 1

    return act


def strike(stage: Stage, broker: KafkaBroker, kind: Kind, away_s: float) -> None:
    """One of them. It is there again when this returns."""
    stage.times[kind] += 1
    stage.settle_input()
    if kind == "the broker stands still":
        broker.suspend()
        stage.live(stage.draw.uniform(0.1, 1.0) * min(away_s, MOST_STILL_S))
        broker.go_on()
        return
    if kind == "the broker is restarted":
        broker.stop()
    else:
        broker.kill()
    if kind == "the broker is killed and away for a while":
        stage.live(away_s)
    broker.start()


def loses_one(cluster: KafkaCluster, *, away_s: float) -> Callable[[Stage], None]:
    """Of three brokers one is killed and comes back later: in turns one that leads what matters most, then any."""

    def act(stage: Stage) -> None:
        turns = 0
        while turns < len(LEADERS) or not stage.over:
            stage.live(stage.draw.uniform(1.0, 4.0))
            what = list(LEADERS)[turns % len(LEADERS)]
            stage.settle_input()
            victim = cluster.broker(_leader(cluster, what, stage.draw.randrange(1_000)))
            victim.kill()
            stage.live(stage.draw.uniform(0.3, 1.0) * away_s)
            victim.start()
            _until_in_sync(cluster)
            stage.times[f"broker killed that leads {LEADERS[what]}"] += 1
            turns += 1

    return act


LEADERS = {
    "__transaction_state": "transactions",
    "__consumer_offsets": "groups",
    "controller": "the cluster",
    "predictions": "outputs",
}
"""Whose leader is killed, and what that broker is in words."""


def _leader(cluster: KafkaCluster, what: str, pick: int) -> int:
    """The number of the broker that is the controller, or leads one of a topic's partitions."""
    known = _look(cluster)
    if what == "controller":
        return int(known.controller_id)
    leaders = sorted(partition.leader for partition in known.topics[what].partitions.values())
    return int(leaders[pick % len(leaders)])


def _until_in_sync(cluster: KafkaCluster) -> None:
    """Wait until every copy is whole again, so that the next broker may be lost. Raises TimeoutError."""
    deadline = time.monotonic() + ANSWER_S
    while any(
        len(partition.isrs) < len(partition.replicas)
        for topic in _look(cluster).topics.values()
        for partition in topic.partitions.values()
    ):
        if time.monotonic() > deadline:
            raise TimeoutError("a broker that came back did not catch up")
        time.sleep(0.2)


def _look(cluster: KafkaCluster) -> Any:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2})
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return admin.list_topics(timeout=5.0)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
