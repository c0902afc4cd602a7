"""A worker that sleeps past its session and wakes: what at-least-once promises of its zombie's last words."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

from tests.integration.kafka_numbers import (
    Source,
    expected,
    header,
    ids_due,
    mine,
    read_until,
    sums_by_device,
    until_shared,
)


def test_a_worker_that_sleeps_past_its_session_and_wakes_loses_nothing_and_says_nothing_else_under_an_id(
    kafka: str, name: str, worker_process: Callable[[], subprocess.Popen[str]]
) -> None:
    source, group = Source(kafka, f"{name}-in"), f"streamer.{name}.live"
    sleeper = worker_process()
    worker_process()
    until_shared(kafka, group, 2)
    read_until(kafka, "predictions", mine(name, source.send(50) // 2))
    source.send(200)
    sleeper.send_signal(signal.SIGSTOP)  # with records in its hands
    total = source.send(50)
    read_until(kafka, "predictions", mine(name, total))  # the other took over and answered all
    sleeper.send_signal(signal.SIGCONT)
    total = source.send(200)
    until_shared(kafka, group, 2)
    total = source.send(50)
    messages = read_until(kafka, "predictions", mine(name, total))
    answers = [message for message in messages if header(message, "ce_id").startswith(f"{name}-in/")]
    assert sleeper.poll() is None, "the fenced worker is to start afresh, not to end"
    assert {header(message, "ce_id") for message in answers} == ids_due(kafka, f"{name}-in")
    assert sums_by_device(answers) == expected(source.numbers)
