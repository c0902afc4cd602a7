"""Several Kafka brokers as one cluster on this machine: everything is replicated, any one of them may be lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from streamer.testing.kafka_broker import KafkaBroker, free_port, new_cluster_id
from streamer.testing.kafka_properties import Seat


class KafkaCluster:
    """Brokers that are also the controllers, on all of which every topic stands (`min.insync.replicas` is 2).

    data: a folder for their logs, a temporary one when None. heap_mb: the Java heap of each.
    Enter it on a thread that lives as long as it. Raises ConfigurationError, LogUnavailable.
    """

    def __init__(self, brokers: int = 3, data: Path | None = None, heap_mb: int = 320) -> None:
        self._data = data or Path(tempfile.mkdtemp(prefix="streamer-kafka-"))
        self._temporary = data is None
        controllers = {number: free_port() for number in range(1, brokers + 1)}
        cluster = new_cluster_id()
        self.brokers: Sequence[KafkaBroker] = [
            KafkaBroker(data=self._data / f"broker-{number}", heap_mb=heap_mb, seat=Seat(number, controllers, cluster))
            for number in controllers
        ]

    @property
    def bootstrap(self) -> str:
        """`host:port` of every broker, with commas between them."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def broker(self, number: int) -> KafkaBroker:
        """The broker that the cluster knows by this number, from 1 on."""
        return self.brokers[number - 1]

    def __enter__(self) -> Self:
        try:
            for broker in self.brokers:  # none answers before most of them are there
                broker.launch()
            for broker in self.brokers:
                broker.wait_until_started()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for broker in self.brokers:
            broker.kill()  # in order they would wait for a controller that has gone before them
        if self._temporary:
            shutil.rmtree(self._data, ignore_errors=True)
