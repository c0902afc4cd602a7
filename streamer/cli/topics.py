"""`topics`: create what the pipelines need, or print it for the administrator of a Kafka cluster."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.feeds.progress import FEEDS_SPEC
from streamer.log.base import TopicSpec
from streamer.logs import log_of
from streamer.settings import KafkaSettings, Settings
from streamer.worker.topics import group_of, needed

EXAMPLES = (
    "python -m streamer topics --config configs/kafka.yaml",
    "python -m streamer topics --config configs/kafka.yaml --print > for-the-administrator.sh",
)


class Access(NamedTuple):
    """One access rule: what a principal must be allowed to do with a topic or a group."""

    resource: str
    name: str
    operations: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser, "one topic or access rule a line")
    parser.add_argument(
        "--print", action="store_true", dest="printed", help="create nothing: print Kafka's own commands for it"
    )
    parser.add_argument("--principal", help="whom the access rules are for (default: User: and log.username)")


def run(arguments: argparse.Namespace) -> int:
    """Create or print. Raises TopicMismatch where a topic exists with other settings, PermissionDenied, LogError."""
    settings = settings_of(arguments)
    specs = topics_needed(settings)
    if arguments.json:
        for spec in specs:
            print_json({"kind": "topic", **{name: getattr(spec, name) for name in spec.__slots__}})
        for rule in access_needed(settings):
            print_json({"kind": "access", **rule._asdict()})
    if arguments.printed:
        if not arguments.json:
            print("\n".join(commands(settings, arguments.principal)))
        return 0
    asyncio.run(_create(settings, specs))
    if not arguments.json:
        for spec in specs:
            print(f"{spec.name}: {spec.partitions} partitions{', compacted' if spec.compact else ''}")
    return 0


def topics_needed(settings: Settings) -> list[TopicSpec]:
    """Every topic of every pipeline once, with the most partitions anybody needs of it."""
    wanted: dict[str, TopicSpec] = {FEEDS_SPEC.name: FEEDS_SPEC}
    for name, options in settings.pipelines.items():
        for spec in needed(options, group_of(settings.application, name), options.input.partitions):
            known = wanted.get(spec.name)
            if known is None or known.partitions < spec.partitions:
                wanted[spec.name] = spec
    return list(wanted.values())


def access_needed(settings: Settings) -> list[Access]:
    """The least that one principal needs to feed, run and follow all pipelines."""
    operations: dict[tuple[str, str], set[str]] = {("topic", FEEDS_SPEC.name): {"Read", "Write"}}

    def allow(resource: str, name: str, *what: str) -> None:
        operations.setdefault((resource, name), set()).update(what)

    for name, options in settings.pipelines.items():
        group = group_of(settings.application, name)
        allow("group", group, "Read")
        for spec in needed(options, group, options.input.partitions):
            allow("topic", spec.name, "Read", "Write")
    return [
        Access(resource, name, (*sorted(what), *(("Describe", "DescribeConfigs") if resource == "topic" else ())))
        for (resource, name), what in operations.items()
    ]


def commands(settings: Settings, principal: str | None) -> Iterator[str]:
    """Kafka's own command lines that create the topics and the access rules."""
    kafka = settings.log if isinstance(settings.log, KafkaSettings) else KafkaSettings(kind="kafka")
    who = principal or f"User:{kafka.username or 'streamer'}"
    server = f"--bootstrap-server {shlex.quote(kafka.bootstrap_servers)}"
    yield "# Topics (add --command-config FILE where the cluster asks for credentials)"
    for spec in topics_needed(settings):
        words = [f"kafka-topics.sh {server} --create --if-not-exists --topic {shlex.quote(spec.name)}"]
        words.append(f"--partitions {spec.partitions}")
        if kafka.replication_factor > 0:
            words.append(f"--replication-factor {kafka.replication_factor}")
        if spec.compact:
            words.append("--config cleanup.policy=compact")
        if spec.retention_ms is not None:
            words.append(f"--config retention.ms={spec.retention_ms}")
        words.append(f"--config max.message.bytes={spec.max_record_bytes}")
        yield " ".join(words)
    yield "# Access rules"
    for rule in access_needed(settings):
        what = " ".join(f"--operation {operation}" for operation in rule.operations)
        words = [f"kafka-acls.sh {server} --add --allow-principal {shlex.quote(who)}"]
        yield " ".join([*words, what, f"--{rule.resource} {shlex.quote(rule.name)}"])


async def _create(settings: Settings, specs: list[TopicSpec]) -> None:
    async with log_of(settings.log) as log:
        await log.create_topics(specs)
