"""A rolling upgrade on a real Kafka: workers of both versions share a group, and live streams move between them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import streamer
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.records import NewRecord, TopicPartition
from streamer.settings import MemorySettings, Settings
from tests.integration.kafka_numbers import header, read_until

ZOO = Path(streamer.__file__).parent.parent / "models" / "zoo"
MACHINES = ("boiler", "crane", "lathe", "mixer", "press", "pump", "turbine", "winch")
PARTITIONS = 2


def versions(folder: Path) -> tuple[Path, Path]:
    """The shipped forecaster, and the same with slightly other weights as version 2099."""
    old = Path(shutil.copytree(ZOO / "machine-forecaster", folder / "old"))
    new = Path(shutil.copytree(old, folder / "new"))
    weights = load_file(new / "weights.safetensors")
    save_file({name: tensor * 1.001 for name, tensor in weights.items()}, new / "weights.safetensors")
    settings = yaml.safe_load((new / "model.yaml").read_text())
    (new / "model.yaml").write_text(yaml.safe_dump({**settings, "version": "2099"}))
    return old, new


def app(log: streamer.Log, topic: str, model: Path, also: Sequence[Path] = ()) -> streamer.App:
    pipeline = {
        "input": {"topic": topic, "partitions": PARTITIONS},
        "model": str(model),
        "also": [str(folder) for folder in also],
        "commit": {"commit_interval_ms": 20, "snapshot_interval_ms": 50},
        "outputs": {role: f"{topic}-{role}" for role in ("predictions", "alerts", "streams", "deadletters")},
    }
    chosen = Settings(application=topic, log=MemorySettings(kind="memory"), pipelines={"machines": pipeline}, feeds=[])
    return streamer.App(chosen, log=log)


async def feed(log: streamer.Log, topic: str, second: int) -> None:
    """One event of every machine."""
    for n, machine in enumerate(MACHINES):
        value = json.dumps({"value": second % 7}).encode()
        await log.append(topic, n % PARTITIONS, [NewRecord(machine.encode(), value, (), second * 1000)])


async def answered(log: streamer.Log, topic: str, *apps: streamer.App) -> None:
    """Wait until everything is committed, whoever owns the partitions."""
    names = [TopicPartition(topic, n) for n in range(PARTITIONS)]
    ends = await log.offsets(names)
    while True:
        await asyncio.gather(*(serving.drained() for serving in apps))
        committed = await log.committed(f"{topic}.machines.live", names)
        if all(name in committed and committed[name].offset >= ends[name].end for name in names):
            return


async def owning(serving: streamer.App, partitions: int) -> None:
    """Wait until an app owns so many."""
    while serving.status()["machines"].partitions != partitions:
        await serving.drained()


@pytest.mark.kafka
async def test_workers_of_both_versions_take_over_each_others_streams_and_every_record_is_answered_once(
    kafka: str, name: str, tmp_path: Path
) -> None:
    old, new = versions(tmp_path)
    options = KafkaOptions(bootstrap_servers=kafka, delivery="exactly_once", session_timeout_s=6)
    async with KafkaLog(options) as log:
        async with app(log, name, old, [new]) as first:
            await feed(log, name, 0)
            await answered(log, name, first)
            async with app(log, name, new, [old]) as second:
                await asyncio.gather(owning(first, 1), owning(second, 1))
                for moment in (1, 2, 3):
                    await feed(log, name, moment)
                await answered(log, name, first, second)
            await owning(first, PARTITIONS)
            await feed(log, name, 4)
            await answered(log, name, first)
        async with app(log, name, new, [old]) as third:
            await feed(log, name, 5)
            await answered(log, name, third)
    said = defaultdict(list)
    for message in read_until(kafka, f"{name}-predictions", lambda found: len(found) >= 6 * len(MACHINES), PARTITIONS):
        said[header(message, "ce_subject")].append((header(message, "ce_id"), header(message, "model")))
    assert set(said) == set(MACHINES)
    for ids in said.values():
        assert len({i for i, _ in ids}) == len(ids) == 6
        assert len({model for _, model in ids}) == 1  # a stream finishes with the version that it began with
