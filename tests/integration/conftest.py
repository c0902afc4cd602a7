"""Fixtures of the integration tests: any log, a microphone that hears what is played, worker processes over Kafka."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamer.errors import InputError
from streamer.feeds.microphone import devices
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.kafka_connection import Delivery
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.testing.clocks import FakeWallClock
from streamer.testing.sound import NullSink, missing_programs, null_sink
from tests.integration.log_conformance import Case

ROOT = Path(__file__).parents[2]


def _lacking() -> str:
    if programs := missing_programs():
        return f"no {', '.join(programs)}: apt-get install pulseaudio pulseaudio-utils libasound2-plugins"
    try:
        devices()
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> Iterator[NullSink]:
    """A private PulseAudio whose null sink is the default input device, named `pulse`.

    Skips where PulseAudio or PortAudio is missing; fails instead where `STREAMER_REQUIRE` names mic.
    """
    if lacking := _lacking():
        if "mic" in os.environ.get("STREAMER_REQUIRE", ""):
            pytest.fail(lacking)
        pytest.skip(lacking)
    # A folder of our own: pytest's are too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="mic") as folder, null_sink(Path(folder)) as sink:
        for name, value in sink.env.items():
            monkeypatch.setenv(name, value)
        if not any(device.name == "pulse" for device in devices()):
            pytest.skip("PortAudio shows no device pulse: apt-get install libasound2-plugins")
        yield sink


@pytest.fixture
def name() -> str:
    """A pipeline name, and so a group and topics, of this test's own."""
    return f"e2e-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def delivery() -> Delivery:
    """How the worker processes commit; a test may say otherwise by a parameter of this name."""
    return "at_least_once"


@pytest.fixture
def worker_process(kafka: str, name: str, delivery: Delivery) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts worker processes and sees to it that none stays."""
    started: list[subprocess.Popen[str]] = []
    options = json.dumps({"bootstrap": kafka, "name": name, "topic": f"{name}-in", "delivery": delivery})

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "tests" / "integration" / "adder.py"), options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "up"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Kind:
    """An embedded log, or a broker's address with how a worker's commits are made."""

    name: str
    bootstrap: str = ""
    delivery: Delivery = "at_least_once"


IN_TRANSACTIONS = "kafka in transactions"


@pytest.fixture(
    params=["memory", "sqlite", *(pytest.param(name, marks=pytest.mark.kafka) for name in ("kafka", IN_TRANSACTIONS))]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which log."""
    if not request.param.startswith("kafka"):
        return Kind(request.param)
    delivery: Delivery = "exactly_once" if request.param == IN_TRANSACTIONS else "at_least_once"
    return Kind("kafka", str(request.getfixturevalue("kafka")), delivery)


@pytest.fixture
async def case(kind: Kind, tmp_path: Path) -> AsyncIterator[Case]:
    """The log under test, with every member leaving at the end."""
    clock = FakeWallClock()
    async with AsyncExitStack() as stack:
        if kind.name == "memory":
            log: Log = await stack.enter_async_context(MemoryLog(now_ms=clock))
            yield Case("memory", log, lambda _: _same(log), clock, stack)
        elif kind.name == "sqlite":

            async def another_file(on: AsyncExitStack) -> Log:
                return await on.enter_async_context(SqliteLog(tmp_path / "log.db", now_ms=clock))

            yield Case("sqlite", await another_file(stack), another_file, clock, stack)
        else:

            async def another_client(on: AsyncExitStack) -> Log:
                return await on.enter_async_context(
                    KafkaLog(KafkaOptions(bootstrap_servers=kind.bootstrap, delivery=kind.delivery))
                )

            yield Case("kafka", await another_client(stack), another_client, None, stack)


async def _same(log: Log) -> Log:
    return log
