"""A worker process of a chaos run. It ends by SIGTERM, in order, or by any other signal, at once.

SIGUSR1 and SIGUSR2 order it to lose the answer to its next transaction: of one that happens, of one that does not.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

import streamer
from models.bundle import load as load_bundle
from streamer.errors import LogUnavailable
from streamer.log.kafka_connection import Delivery, KafkaOptions
from streamer.observe.process import tune_for_serving
from streamer.options import PipelineOptions
from streamer.settings import MemorySettings, Settings
from streamer.worker.topics import group_of
from tests.chaos import clocks
from tests.chaos.history import APPLICATION
from tests.chaos.mistakes import DELIVERY, MEMBERS, Mistake
from tests.chaos.phases import Board, Watch
from tests.chaos.watched import WatchedLog

SESSION_S = 2.0
START_AGAIN_S = 0.3
_PR_SET_PDEATHSIG = 1


class Duty(NamedTuple):
    """What a worker is to do. board: the file it says its phase on; said: where its log goes; planted: a mistake.

    clock: the file by which its wall clock is off. delivery: of its commits, unless a mistake says otherwise.
    """

    bootstrap: str
    pipelines: Mapping[str, PipelineOptions]
    board: Path
    said: Path
    planted: Mistake | None
    request_timeout_s: float
    clock: Path | None
    delivery: Delivery


def serve(duty: Duty, alive: Connection) -> None:
    """Be a worker until SIGTERM, or until whoever holds the other end of `alive` is gone."""
    # One that stands still would outlive a harness that was killed: it cannot see the other end of `alive` close.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with duty.said.open("a", encoding="utf-8", buffering=1) as said:
        os.dup2(said.fileno(), sys.stdout.fileno())
        os.dup2(said.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(name)s: %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    tune_for_serving()
    if duty.clock is not None:
        clocks.follow(duty.clock)
    asyncio.run(_serve(duty, alive))


async def _serve(duty: Duty, alive: Connection) -> None:
    loop, leave = asyncio.get_running_loop(), asyncio.Event()
    losses: list[bool] = []
    loop.add_reader(alive.fileno(), os._exit, 1)  # nothing is ever sent: the other end was closed
    loop.add_signal_handler(signal.SIGTERM, leave.set)
    loop.add_signal_handler(signal.SIGUSR1, losses.append, True)
    loop.add_signal_handler(signal.SIGUSR2, losses.append, False)
    board = Board(duty.board, len(duty.pipelines))
    watches = {
        group_of(APPLICATION, name): Watch(board, place, losses) for place, name in enumerate(sorted(duty.pipelines))
    }
    kafka = KafkaOptions(
        bootstrap_servers=duty.bootstrap,
        session_timeout_s=SESSION_S,
        heartbeat_interval_s=0.5,
        rebalance_timeout_s=10.0,
        request_timeout_s=duty.request_timeout_s,
        delivery=DELIVERY.get(duty.planted, duty.delivery),
    )
    settings = Settings(
        application=APPLICATION, log=MemorySettings(kind="memory"), pipelines=dict(duty.pipelines), feeds=[]
    )
    models = {name: load_bundle(options.model) for name, options in duty.pipelines.items()}
    begun = False
    while not begun and not leave.is_set():
        try:
            async with (
                WatchedLog(kafka, watches.__getitem__, member=MEMBERS[duty.planted]) as log,
                streamer.App(settings, log=log, models=models) as app,
            ):
                begun = True
                failing, leaving = asyncio.create_task(app.failed()), asyncio.create_task(leave.wait())
                await asyncio.wait([failing, leaving], return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    failing.result()
                failing.cancel()
        except LogUnavailable:  # no broker answered at the start: whoever runs a service starts it again
            if begun:
                raise
            await asyncio.sleep(START_AGAIN_S)
