"""Ctrl-C: once drains and ends well, twice ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.cli.shown import ROOT


class Running:
    """A process of ours, with what it says on standard error."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def until(self, text: str) -> None:
        """Read standard error up to a line with `text`; fails at its end."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return
        pytest.fail(f"never said {text!r}, but: {''.join(seen)}")


ENDLESS = """
import asyncio, sys
from streamer.cli.interrupt import run_until_interrupted
async def main(stop):
    print("ready", file=sys.stderr, flush=True)
    await asyncio.Event().wait()
    return 0
sys.exit(run_until_interrupted(main))
"""


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    with Running(["-c", ENDLESS]) as running:
        running.until("ready")
        running.interrupt()
        running.until("stopping")
        running.interrupt()
        assert running.process.wait(timeout=60) == 130


def test_what_cannot_drain_in_time_is_left_to_the_next_run() -> None:
    with Running(["-c", ENDLESS]) as running:
        running.until("ready")
        running.interrupt()
        assert running.process.wait(timeout=60) == 0


def test_an_interrupt_drains_commits_and_ends_well(gibberish: Path, tmp_path: Path) -> None:
    arguments = ["-m", "streamer", "run", "--set", f"pipelines.speech.model={gibberish}", "--set", "feeds=[]"]
    decoder = ["--set", "pipelines.speech.transcript.decoder=greedy", "--log-level", "info"]
    with Running([*arguments, *decoder], {"STREAMER_LOG__PATH": str(tmp_path / "log.db")}) as running:
        running.until("running")
        running.interrupt()
        assert running.process.wait(timeout=60) == 0
