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
from streamer.log.topics import kafka_configs
from streamer.logs import log_of
from streamer.settings import KafkaSettings, Settings
from streamer.worker.topics import changelog_of, ensure, needed, parts_of

EXAMPLES = (
    "python -m streamer topics --config configs/kafka.yaml",
    "python -m streamer topics --config configs/kafka.yaml --print > for-the-administrator.sh",
)


class Access(NamedTuple):
    """One access rule: what a principal must be allowed to do. prefixed: with all whose names begin so."""

    resource: str
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


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
        for part in parts_of(settings.application, name, options):
            for spec in needed(part.options, part.group, options.input.partitions):
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
        for part in parts_of(settings.application, name, options):
            allow("group", part.group, "Read")
            for spec in needed(part.options, part.group, options.input.partitions):
                allow("topic", spec.name, "Read", "Write")
    rules = [
        Access(resource, name, (*sorted(what), *(("Describe", "DescribeConfigs") if resource == "topic" else ())))
        for (resource, name), what in operations.items()
    ]
    if isinstance(settings.log, KafkaSettings) and settings.log.delivery == "exactly_once":
        groups = [rule.name for rule in rules if rule.resource == "group"]
        rules += [Access("transactional-id", f"{group}.", ("Describe", "Write"), True) for group in groups]
    return rules


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
        words += [f"--config {key}={value}" for key, value in kafka_configs(spec).items()]
        yield " ".join(words)
    yield "# Access rules"
    for rule in access_needed(settings):
        what = " ".join(f"--operation {operation}" for operation in rule.operations)
        words = [f"kafka-acls.sh {server} --add --allow-principal {shlex.quote(who)}"]
        pattern = ["--resource-pattern-type prefixed"] if rule.prefixed else []
        yield " ".join([*words, what, f"--{rule.resource} {shlex.quote(rule.name)}", *pattern])


async def _create(settings: Settings, specs: list[TopicSpec]) -> None:
    inputs = frozenset(options.input.topic for options in settings.pipelines.values())
    async with log_of(settings.log) as log:
        await ensure(log, specs, changelogs_of(settings), inputs)


def changelogs_of(settings: Settings) -> frozenset[str]:
    """Names of the changelogs of all pipelines."""
    return frozenset(
        changelog_of(part.group, part.options.input.topic)
        for name, options in settings.pipelines.items()
        for part in parts_of(settings.application, name, options)
    )
