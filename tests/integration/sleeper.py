"""The scenario of a zombie: of two workers one sleeps past its session, the other takes over, the first one wakes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

from tests.integration.kafka_numbers import Source, mine, read_until, until_shared


def one_of_two_sleeps_past_its_session_and_wakes(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]], source: Source
) -> tuple[list[subprocess.Popen[str]], int]:
    """The workers, sharing the group again, with the number of records fed; not all of them are answered yet."""
    group = f"streamer.{name}.live"
    sleeper = worker_process()
    other = worker_process()
    until_shared(kafka, group, 2)
    read_until(kafka, "predictions", mine(name, source.send(50) // 2))
    source.send(200)
    sleeper.send_signal(signal.SIGSTOP)  # with records in its hands
    read_until(kafka, "predictions", mine(name, source.send(50)))  # the other took over and answered all
    sleeper.send_signal(signal.SIGCONT)
    source.send(200)
    until_shared(kafka, group, 2)
    total = source.send(50)
    return [sleeper, other], total
