"""Connections between workers and their broker that are cut, slowed, silent or late, by a proxy between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from streamer.testing.kafka_broker import KafkaBroker, free_port
from tests.chaos.proxy import Asks, Faults, Proxy
from tests.chaos.stage import Stage

Kind = Literal[
    "connections cut",
    "connections slowed",
    "nothing passes",
    "nothing comes back",
    "nothing goes out",
    "ends of transactions answered late",
    "requests of transactions late, their connections cut",
]
PLAIN: Sequence[Kind] = (
    "connections cut",
    "connections slowed",
    "nothing passes",
    "nothing comes back",
    "nothing goes out",
)
KINDS: Sequence[Kind] = (
    *PLAIN,
    "ends of transactions answered late",
    "requests of transactions late, their connections cut",
)
_STEPS = (Asks.ADD_PARTITIONS, Asks.ADD_OFFSETS, Asks.COMMIT_OFFSETS, Asks.END_TRANSACTION)


class Behind(NamedTuple):
    """A broker whose workers come through a proxy."""

    broker: KafkaBroker
    proxy: Proxy
    port: int

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def direct(self) -> str:
        return self.broker.bootstrap


@contextmanager
def behind(data: Path) -> Iterator[Behind]:
    """A broker with a proxy before it."""
    port = free_port()
    with KafkaBroker(data=data, behind=port) as broker, Proxy(port, lambda: broker.behind_port) as proxy:
        yield Behind(broker, proxy, port)


def disturbed(proxy: Proxy, kinds: Sequence[Kind] = KINDS, *, longest_s: float) -> Callable[[Stage], None]:
    """The network is as each of `kinds` in turns, for up to `longest_s`; then it heals, or its connections are cut."""

    def act(stage: Stage) -> None:
        turns = 0
        while turns < len(kinds) or not stage.over:
            stage.live(stage.draw.uniform(0.5, 3.0))
            strike(stage, proxy, kinds[turns % len(kinds)], stage.draw.uniform(0.2, 1.0) * longest_s)
            turns += 1

    return act


def strike(stage: Stage, proxy: Proxy, kind: Kind, seconds: float) -> None:
    """One of them, for so long. Counted is how many messages or connections it met, where these can be counted."""
    draw, before = stage.draw, proxy.struck
    match kind:
        case "connections cut":
            until = seconds
            while until > 0:
                proxy.cut(draw, draw.choice([0.2, 0.5, 1.0]))
                pause = draw.uniform(0.05, 1.0)
                stage.live(pause)
                until -= pause
        case "connections slowed":
            proxy.set(Faults(bytes_per_s=draw.choice([2_000, 10_000, 50_000])))
        case "nothing passes":
            proxy.set(Faults(silent_up=True, silent_down=True))
        case "nothing comes back":
            proxy.set(Faults(silent_down=True))
        case "nothing goes out":
            proxy.set(Faults(silent_up=True))
        case "ends of transactions answered late":
            proxy.set(Faults(held=frozenset({Asks.END_TRANSACTION}), hold_s=draw.uniform(0.1, seconds)))
        case "requests of transactions late, their connections cut":
            late = frozenset({draw.choice(_STEPS)})
            proxy.set(Faults(late=late, late_s=draw.uniform(0.02, 0.3), late_share=draw.choice([0.05, 0.3])))
    stage.live(seconds)
    stage.times[kind] += max(1, proxy.struck - before)
    proxy.heal(forget=draw.random() < 0.5)
