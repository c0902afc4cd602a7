"""Feeding for as long as a plan says, and what is seen meanwhile from outside of the process that serves."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

from streamer.log.base import Log
from streamer.worker.topics import changelog_of
from tests.soak.outside import LOOK_S, Feeder, disk_mb, live_keys
from tests.soak.trend import FEWEST_POINTS

LEAST_SAMPLES = 2 * FEWEST_POINTS + 8
BEGINS_S = 180.0
"""How long the first answers may take."""


class Watch:
    """Samples from outside, every so many seconds, also as JSON Lines in `folder`."""

    def __init__(self, log: Log, folder: Path, feeders: Mapping[str, Feeder], every_s: float) -> None:
        self._log, self._folder, self._feeders, self._every_s = log, folder, feeders.values(), every_s
        self._changelogs = [changelog_of(feeder.group, feeder.topic) for feeder in self._feeders]

    async def over(self, process: Process, seconds: float) -> list[dict[str, float]]:
        """Feed for so long after the first answers of each pipeline, or until the process has ended.

        For longer where a machine is too busy for enough samples in that time.
        """
        stop = asyncio.Event()
        found: list[dict[str, float]] = []
        async with asyncio.TaskGroup() as feeding:
            for feeder in self._feeders:
                feeding.create_task(feeder.run(stop))
            await self._begun(process)
            began_s = time.monotonic()
            while process.returncode is None and (time.monotonic() - began_s < seconds or len(found) < LEAST_SAMPLES):
                await asyncio.sleep(self._every_s)
                found.append(await self._sample(began_s))
                await asyncio.to_thread(self._write, found[-1])
            stop.set()
        return found

    async def _begun(self, process: Process) -> None:
        async with asyncio.timeout(BEGINS_S):
            while process.returncode is None and not all([await feeder.answered() for feeder in self._feeders]):  # noqa: ASYNC110 - looked at from outside
                await asyncio.sleep(LOOK_S)

    async def _sample(self, began_s: float) -> dict[str, float]:
        return {
            "seconds": time.monotonic() - began_s,
            "answered": float(sum([await feeder.answered() for feeder in self._feeders])),
            "disk_mb": await asyncio.to_thread(disk_mb, self._folder / "log"),
            "changelog_table": float(await live_keys(self._log, self._changelogs)),
        }

    def _write(self, sample: Mapping[str, float]) -> None:
        with (self._folder / "outside.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(sample) + "\n")
