"""A progress line for people: on standard error, and only where that is a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

REFRESH_S = 0.2


@asynccontextmanager
async def progress_shown(what: str, count: Callable[[], str], *, quiet: bool = False) -> AsyncIterator[None]:
    """Show `what` with a spinner and `count()`, asked for anew at every refresh, while the body runs."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task(what, total=None)

        async def refresh() -> None:
            while True:
                progress.update(line, description=f"{what}: {count()}")
                await asyncio.sleep(REFRESH_S)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
