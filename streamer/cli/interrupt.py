"""Ctrl-C: the first one asks to drain and commit, within a time; the second one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

DRAIN_S = 4.5
"""How long draining may take; what is not committed by then is stepped again by the next run."""


def run_until_interrupted(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `main(stop)` and return its exit code; `stop` is set at the first SIGINT or SIGTERM.

    A main that has not returned `DRAIN_S` after that is cancelled, and the code is 0 all the same.
    """
    return asyncio.run(_guarded(main))


async def _guarded(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.create_task(main(stop))

    def interrupted() -> None:
        if stop.is_set():
            # No clean-up of any kind: that is what a second Ctrl-C asks for. What is committed stays committed.
            os._exit(128 + signal.SIGINT)
        stop.set()
        print("\nstopping: what was read is finished and committed (Ctrl-C again ends at once)", file=sys.stderr)
        loop.call_later(DRAIN_S, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        return await task
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def first_of(*works: Awaitable[object]) -> None:
    """Wait until one of `works` is done, then cancel the others; raises what any of them raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        done = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in [*done, *(t for t in tasks if not t.cancelled())]:
        task.result()
