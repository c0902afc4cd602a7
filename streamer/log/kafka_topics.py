"""Topics of a Kafka cluster: creating, deleting and describing them, with what each takes at most."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from streamer.log.base import Committed, Compaction, TopicInfo, TopicSpec
from streamer.log.kafka_calm import calm
from streamer.log.kafka_connection import KafkaOptions, translated, translating
from streamer.log.topics import COMPACTION, FRAMING_BYTES, check_matches, kafka_configs, topic_missing
from streamer.records import TopicPartition

_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
_POLL_S = 0.02


class KafkaTopics:
    """What this client knows of the cluster's topics; asked once for each and remembered."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._admin = AIOKafkaAdminClient(**options.connection())
        self._known: dict[str, TopicInfo] = {}

    async def start(self) -> None:
        """Raises LogUnavailable."""
        calm(self._admin._client)
        with translating(self._options, "connect"):
            await self._admin.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._admin.close()

    async def create(self, specs: Iterable[TopicSpec]) -> None:
        """Create what is missing and wait until it can be used. Raises TopicMismatch, PermissionDenied."""
        specs = list(specs)
        found = await self.all()
        for spec in specs:
            check_matches(spec, found.get(spec.name))
        missing = [spec for spec in specs if spec.name not in found]
        if not missing:
            return
        names = ", ".join(spec.name for spec in missing)
        with translating(self._options, f"create the topics {names}"):
            response = await self._admin.create_topics([self._new_topic(spec) for spec in missing])
        for name, code, *message in response.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise translated(for_code(code)(*message), self._options, f"create topic {name!r}")
        await self._wait_until_usable(missing)

    async def delete(self, names: Iterable[str]) -> None:
        """Delete topics; unknown names are passed over."""
        names = list(names)
        for name in names:
            self._known.pop(name, None)
        with translating(self._options, f"delete the topics {', '.join(names)}"):
            response = await self._admin.delete_topics(names)
        for name, code, *_ in response.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                raise translated(for_code(code)(), self._options, f"delete topic {name!r}")

    async def all(self) -> dict[str, TopicInfo]:
        """Every topic this user may see, Kafka's own left out."""
        described = await self._describe(None)
        return await self._infos({t["topic"]: t for t in described if not t["topic"].startswith("__")})

    async def info(self, name: str) -> TopicInfo:
        """One topic. Raises TopicMissing, PermissionDenied, LogUnavailable."""
        if name not in self._known:
            (described,) = await self._describe([name])
            if code := described["error_code"]:
                if for_code(code) is UnknownTopicOrPartitionError:
                    raise topic_missing(repr(name), f"Kafka at {self._options.bootstrap_servers}")
                raise translated(for_code(code)(), self._options, f"use topic {name!r}")
            self._known.update(await self._infos({name: described}))
        return self._known[name]

    async def committed(self, group: str, names: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        """What a group has committed, asked without joining it; partitions without an offset are left out."""
        wanted = [ClientPartition(*name) for name in names]
        with translating(self._options, f"read the committed offsets of group {group!r}"):
            async with asyncio.timeout(self._options.request_timeout_s):
                while wanted:
                    try:
                        found = await self._admin.list_consumer_group_offsets(group, partitions=wanted)
                    except KafkaError as error:  # a young or moving coordinator asks for patience
                        if not error.retriable:
                            raise
                        await asyncio.sleep(_POLL_S)
                        continue
                    return {TopicPartition(*name): Committed(*at) for name, at in found.items() if at.offset >= 0}
        return {}

    async def partition_counts(self, names: Sequence[str]) -> dict[str, int]:
        """How many partitions these topics have now; missing ones are left out. What was known of others is dropped."""
        if not names:
            return {}
        with translating(self._options, f"count the partitions of {', '.join(names)}"):
            async with asyncio.timeout(self._options.request_timeout_s):
                described = await self._describe(names)
        counts = {t["topic"]: len(t["partitions"]) for t in described if not t["error_code"]}
        for name, count in counts.items():
            if name in self._known and self._known[name].partitions != count:
                self.forget(name)
        return counts

    def forget(self, name: str) -> None:
        """Ask the cluster again next time."""
        self._known.pop(name, None)

    async def _describe(self, names: Sequence[str] | None) -> list[dict[str, Any]]:
        doing = f"look at the topics {', '.join(names)}" if names else "list the topics"
        # The public describe_topics() lets a broker create what it is asked about.
        request = MetadataRequest(None if names is None else list(names), allow_auto_topic_creation=False)
        with translating(self._options, doing):
            response = await self._admin._send_request(request)
        return list(response.to_object()["topics"])

    async def _infos(self, described: dict[str, dict[str, Any]]) -> dict[str, TopicInfo]:
        if not described:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in described]
        with translating(self._options, "read the settings of topics"):
            (response,) = await self._admin.describe_configs(resources)
        # A user without DESCRIBE_CONFIGS gets an error code and no entries: then the defaults are assumed.
        configs = {resource[3]: {entry[0]: entry[1] for entry in resource[4]} for resource in response.resources}
        return {name: _info(name, topic, configs.get(name, {})) for name, topic in described.items()}

    async def _wait_until_usable(self, specs: Sequence[TopicSpec]) -> None:
        """A new topic has leaders, and is known to every broker, a moment after it was created."""
        async with asyncio.timeout(self._options.request_timeout_s):
            while True:
                described = {t["topic"]: t for t in await self._describe([spec.name for spec in specs])}
                if all(_led(described[spec.name]) == spec.partitions for spec in specs):
                    return
                await asyncio.sleep(_POLL_S)

    def _new_topic(self, spec: TopicSpec) -> NewTopic:
        replicas = self._options.replication_factor
        # The client takes -1, "the brokers' default", only beside an assignment of replicas: an empty one.
        assignment: dict[int, list[int]] | None = {} if replicas == -1 else None
        return NewTopic(spec.name, spec.partitions, replicas, assignment, kafka_configs(spec))


def _led(described: dict[str, Any]) -> int:
    """How many partitions have a leader."""
    return sum(partition["leader"] >= 0 for partition in described["partitions"])


def _info(name: str, described: dict[str, Any], configs: dict[str, str]) -> TopicInfo:
    policy = configs.get("cleanup.policy", "delete").split(",")
    retention_ms = int(configs.get("retention.ms", -1)) if "delete" in policy else -1
    max_bytes = int(configs.get("max.message.bytes", _DEFAULT_MAX_MESSAGE_BYTES)) - FRAMING_BYTES
    partitions = described["partitions"]
    return TopicInfo(
        name,
        len(partitions),
        "compact" in policy,
        None if retention_ms < 0 else retention_ms,
        max_bytes,
        deletes="delete" in policy,
        compaction=Compaction(**{field: int(configs[key]) for field, key in COMPACTION.items()}) if configs else None,
        replicas=min((len(partition["replicas"]) for partition in partitions), default=0),
        in_sync=int(configs["min.insync.replicas"]) if configs else None,
    )
