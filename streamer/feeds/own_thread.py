"""One thread for one thing that blocks: a file, a device. Calls run one after the other, whatever is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class OwnThread:
    """An async context manager whose end waits for the call at hand.

    A call whose awaiting task was cancelled still runs to its end, and the next one only after it: so closing a file
    from here never meets a read of it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `call`, made in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))
