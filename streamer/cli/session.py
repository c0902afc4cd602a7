"""One run of an app with feeds that end: feed, show what comes out, drain, show the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from streamer.app import App
from streamer.cli.interrupt import first_of
from streamer.codecs.messages import Envelope, Role
from streamer.errors import InputError
from streamer.feeds.base import Feed
from streamer.settings import Settings

See = Callable[[Envelope], None]


async def feed_all(
    settings: Settings, feeds: Sequence[tuple[str, Feed]], roles: Sequence[Role], see: See, stop: asyncio.Event
) -> None:
    """Feed all `feeds` (pipeline, feed) and give `see` every message of `roles`, until all input is answered.

    What a feed raised is raised at the end, after everything that was fed is answered. Raises InputError, LogError,
    ConfigurationError, and at once what a worker fails with.
    """
    async with App(settings) as app:
        fed = asyncio.Event()
        following = asyncio.create_task(follow(app, roles, see, fed))
        try:
            failures = await feed_until(app, feeds, stop)
            await first_of(app.drained(), app.failed())
            fed.set()
            await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    if failures:
        raise failures[0]


async def feed_until(app: App, feeds: Sequence[tuple[str, Feed]], stop: asyncio.Event) -> list[InputError]:
    """Feed until all feeds have ended or `stop` is set; gives what feeds found wrong with their sources.

    Raises LogError, and at once what a worker fails with.
    """
    failures: list[InputError] = []

    async def one(pipeline: str, feed: Feed) -> None:
        try:
            await app.feed(feed, pipeline, stop=stop)
        except InputError as error:
            failures.append(error)

    async def everything() -> None:
        await asyncio.gather(*(one(pipeline, feed) for pipeline, feed in feeds))

    await first_of(everything(), app.failed())
    return failures


async def follow(app: App, roles: Sequence[Role], see: See, finished: asyncio.Event) -> None:
    """Give `see` every message of `roles` that is kept; when `finished` is set, what is there then is still given."""
    async for envelope in app.outputs(*roles, until=finished):
        see(envelope)
